//! Little trees, which one thread plans sooner than several could be started (docs/decisions/0034).

use std::path::Path;

use rayon::ThreadPoolBuilder;

/// Whether a directory is so small that one thread plans it sooner than several could be started.
pub(super) fn is_little(dir: &Path) -> bool {
    const FILES: usize = 48;
    const BYTES: u64 = 4 << 20;
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    let entries: Vec<std::fs::DirEntry> = entries.take(FILES).flatten().collect();
    let bytes = |entry: &std::fs::DirEntry| entry.metadata().map_or(BYTES, |metadata| metadata.len());
    entries.len() < FILES && entries.iter().map(bytes).sum::<u64>() < BYTES
}

/// Has all work of rayon's global pool done by this thread. To be called by the thread that uses the pool, before it does.
pub(super) fn plan_alone() {
    // The pool that is there then is used.
    let _ = ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn little_directories() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, len: u64| {
            let file = File::create(dir.path().join(name)).expect("a file");
            file.set_len(len).expect("its length");
        };
        assert!(is_little(dir.path()));
        write("pages-1.img", 3 << 20);
        assert!(is_little(dir.path()));
        write("pages-2.img", 1 << 20);
        assert!(!is_little(dir.path()), "too large");
        write("pages-2.img", 0);
        (0..60).for_each(|number| write(&format!("core-{number}.img"), 0));
        assert!(!is_little(dir.path()), "too many");
        assert!(!is_little(&dir.path().join("nowhere")));
    }
}
