//! The layout of this CPU's extended register state, from CPUID.
//!
//! In: CPUID and XCR0. Out: [`XsaveLayout`], where each component lies in the *standard* format,
//! the one of signal frames and of ptrace's NT_X86_XSTATE. It does not know what is in a component.
//!
//! Example: a CPU with AVX and nothing more gives mask 0b111, 832 bytes, and one component, number
//! 2 of 256 bytes at offset 576, behind the 512 bytes of FXSAVE and the 64 of the header.

use serde::{Deserialize, Serialize};

use super::raw;

/// CPUID leaf that describes XSAVE.
const XSAVE_LEAF: u32 = 0xd;
/// The first component outside the legacy (FXSAVE) area: AVX.
const FIRST_EXTENDED: u32 = 2;
/// Bit 63 of XCR0 announces future extensions and is no component.
const COMPONENTS_END: u32 = 63;

/// Where the components of extended state lie in the standard format, on this CPU.
///
/// # Sources
/// Intel SDM volume 1, 13.2 to 13.4; the kernel's `arch/x86/kernel/fpu/xstate.c`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XsaveLayout {
    /// XCR0: bit N is set if component N is enabled. 0 (x87) and 1 (SSE) always are.
    pub mask: u64,
    /// Length of the whole state. Ptrace takes exactly this much (kernel: `fpu_user_cfg.max_size`).
    pub size_bytes: u32,
    /// Bits of MXCSR that the CPU has; the kernel refuses a state with others.
    pub mxcsr_mask: u32,
    /// The components from number 2 on, ascending.
    pub components: Vec<XsaveComponent>,
}

/// One component of [`XsaveLayout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XsaveComponent {
    /// Its number: its bit in `mask` and in `xstate_bv`.
    pub number: u32,
    /// From the beginning of the state.
    pub offset_bytes: u32,
    /// Length.
    pub size_bytes: u32,
}

pub(crate) fn gather() -> Option<XsaveLayout> {
    // Not EAX of leaf 0xd: that is what the CPU has, and the kernel may have enabled less.
    let mask = raw::xcr0()?;
    let components = (FIRST_EXTENDED..COMPONENTS_END)
        .filter(|number| mask & (1 << number) != 0)
        .map(|number| {
            let leaf = raw::cpuid(XSAVE_LEAF, number);
            XsaveComponent { number, offset_bytes: leaf.ebx, size_bytes: leaf.eax }
        })
        .collect();
    Some(XsaveLayout {
        mask,
        // EBX: what the components enabled in XCR0 take. (ECX would be for all that the CPU has.)
        size_bytes: raw::cpuid(XSAVE_LEAF, 0).ebx,
        mxcsr_mask: raw::mxcsr_mask(),
        components,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_lie_within_the_state_and_do_not_overlap() {
        let Some(layout) = gather() else { return };
        assert_eq!(layout.mask & 3, 3);
        assert_eq!(layout.mxcsr_mask & 0x1f80, 0x1f80);
        let mut taken = vec![(0, 576)];
        for component in &layout.components {
            let (start, end) = (component.offset_bytes, component.offset_bytes + component.size_bytes);
            assert!(component.size_bytes > 0 && end <= layout.size_bytes, "{component:?}");
            assert!(taken.iter().all(|&(s, e)| end <= s || e <= start), "{component:?} of {layout:?}");
            taken.push((start, end));
        }
        assert_eq!(layout.mask.count_ones() as usize, layout.components.len() + 2);
    }
}
