//! Credentials, in the one order that works.
//!
//! capabilities(7): changing ids away from 0 clears capability sets, unless the securebit
//! NO_SETUID_FIXUP is set; so it is set first. Ids follow while all capabilities are there. Then come:
//!
//! - the inheritable set, where something needs it before all is given up: it may hold what the bounding
//!   set no longer has, but takes in nothing that is not there;
//! - ambient capabilities, which need their permitted and inheritable ones, and that the securebit
//!   NO_CAP_AMBIENT_RAISE is not set;
//! - the bounding set and the final securebits, which both need CAP_SETPCAP;
//! - the sets themselves, which is what gives the power away; and no_new_privs, which needs nothing.
//!
//! # Sources
//! capabilities(7), `PR_SET_SECUREBITS(2const)`, `PR_CAP_AMBIENT(2const)`; `cap_capset` and
//! `cap_task_prctl` in security/commoncap.c of the kernel.

use super::Lowering;
use crate::resolve::recipe::Credentials;

/// linux/securebits.h: SECBIT_NO_SETUID_FIXUP
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// linux/capability.h: _LINUX_CAPABILITY_VERSION_3
const CAPABILITY_VERSION: u32 = 0x2008_0522;

impl Lowering<'_> {
    pub(super) fn credentials(&mut self, credentials: &Credentials) {
        let creds = &credentials.wanted;
        self.prctl(libc::PR_SET_SECUREBITS, u64::from(credentials.own.securebits) | NO_SETUID_FIXUP);
        let groups: Vec<u8> = creds.groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
        let list = if groups.is_empty() { 0 } else { self.asm.data(&groups, 4) };
        self.tape.call(libc::SYS_setgroups, &[creds.groups.len() as u64, list], 0);
        self.tape.call(
            libc::SYS_setresgid,
            &[u64::from(creds.gid), u64::from(creds.egid), u64::from(creds.sgid)],
            0,
        );
        self.tape.call(
            libc::SYS_setresuid,
            &[u64::from(creds.uid), u64::from(creds.euid), u64::from(creds.suid)],
            0,
        );
        // These return the old id, and never fail (setfsuid(2)); the ids above have set them, too.
        if creds.fsgid != creds.egid {
            self.tape.call(libc::SYS_setfsgid, &[u64::from(creds.fsgid)], u64::from(creds.egid));
        }
        if creds.fsuid != creds.euid {
            self.tape.call(libc::SYS_setfsuid, &[u64::from(creds.fsuid)], u64::from(creds.euid));
        }
        // Ambient capabilities of ours go where they are not inheritable.
        let stale = credentials.own.cap_amb & !creds.cap_amb & creds.cap_inh;
        if creds.cap_amb != 0 || stale != 0 || creds.cap_inh & !creds.cap_bnd != 0 {
            let (effective, permitted) = (credentials.own.cap_eff, credentials.own.cap_prm);
            if stale != 0 {
                self.capset(effective, permitted, creds.cap_inh & !stale);
            }
            self.capset(effective, permitted, creds.cap_inh);
        }
        for capability in bits(creds.cap_amb) {
            let args = [libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_RAISE as u64, capability, 0, 0];
            self.tape.call(libc::SYS_prctl, &args, 0);
        }
        for capability in bits(credentials.own.cap_bnd & !creds.cap_bnd) {
            self.prctl(libc::PR_CAPBSET_DROP, capability);
        }
        self.prctl(libc::PR_SET_SECUREBITS, u64::from(creds.securebits));
        self.capset(creds.cap_eff, creds.cap_prm, creds.cap_inh);
        if creds.no_new_privs {
            self.prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
        }
    }

    fn capset(&mut self, effective: u64, permitted: u64, inheritable: u64) {
        let header = self.asm.data(&[CAPABILITY_VERSION.to_ne_bytes(), [0; 4]].concat(), 4);
        let sets = [effective, permitted, inheritable];
        let halves = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
        let data: Vec<u8> = halves.iter().flatten().flat_map(|half| half.to_ne_bytes()).collect();
        let data = self.asm.data(&data, 4);
        self.tape.call(libc::SYS_capset, &[header, data], 0);
    }
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| set >> bit & 1 == 1)
}
