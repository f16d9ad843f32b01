//! Credentials, in the one order that works.
//!
//! capabilities(7): changing ids away from 0 clears capability sets, unless the securebit
//! NO_SETUID_FIXUP is set; so it is set first. Ids follow while all capabilities are there; then the
//! bounding set (needs CAP_SETPCAP), the inheritable set within it, the final securebits, and last
//! the sets themselves, which is what gives the power away. Ambient capabilities need their
//! permitted and inheritable ones; no_new_privs is one-way and needs nothing.

use super::Lowering;
use crate::resolve::recipe::Credentials;

/// linux/securebits.h: SECBIT_NO_SETUID_FIXUP
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// linux/capability.h: _LINUX_CAPABILITY_VERSION_3
const CAPABILITY_VERSION: u32 = 0x2008_0522;

impl Lowering<'_> {
    pub(super) fn credentials(&mut self, credentials: &Credentials) {
        let creds = &credentials.wanted;
        self.prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP);
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
        for capability in (0..64u64).filter(|bit| credentials.dropped_bounding >> bit & 1 == 1) {
            self.prctl(libc::PR_CAPBSET_DROP, capability);
        }
        self.prctl(libc::PR_SET_SECUREBITS, u64::from(creds.securebits));
        let header = self.asm.data(&[CAPABILITY_VERSION.to_ne_bytes(), [0; 4]].concat(), 4);
        let halves = |set: u64| [set as u32, (set >> 32) as u32];
        let [eff, prm, inh] = [halves(creds.cap_eff), halves(creds.cap_prm), halves(creds.cap_inh)];
        let data: Vec<u8> =
            (0..2).flat_map(|half| [eff[half], prm[half], inh[half]]).flat_map(u32::to_ne_bytes).collect();
        let data = self.asm.data(&data, 4);
        self.tape.call(libc::SYS_capset, &[header, data], 0);
        for capability in (0..64u64).filter(|bit| creds.cap_amb >> bit & 1 == 1) {
            let args = [libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_RAISE as u64, capability, 0, 0];
            self.tape.call(libc::SYS_prctl, &args, 0);
        }
        if creds.no_new_privs {
            self.prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
        }
    }
}
