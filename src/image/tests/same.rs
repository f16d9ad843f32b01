//! Images of the same bytes: one is decoded for all, and each keeps its name.

use super::*;

fn origins(model: &Model) -> Vec<String> {
    let living = model.tasks.iter().filter_map(Task::alive);
    living.map(|alive| alive.origin_of(&alive.fds[0]).to_string()).collect()
}

#[test]
fn tables_of_the_same_bytes_are_one() {
    let copy = Copy::new();
    copy.write("fdinfo-3.img", &copy.bytes("fdinfo-2.img"));
    let model = copy.read().unwrap();
    assert_eq!(model.tables().count(), 1);
    assert_eq!(origins(&model), ["fdinfo-2.img entry 0", "fdinfo-3.img entry 0"]);
    let other = read_model(&pair()).unwrap();
    assert_eq!(other.tables().count(), 2);
    let table = |model: &Model| format!("{:?}", model.tasks[0].alive().unwrap().fds);
    assert_eq!(table(&model), table(&other));
}

/// What is wrong with both is said of both.
#[test]
fn errors_name_each_image() {
    check(
        |copy| {
            let mut entries = copy.entries("fdinfo-2.img");
            let repeated = entries[0].clone();
            entries.push(repeated);
            copy.set_entries("fdinfo-2.img", &entries);
            copy.set_entries("fdinfo-3.img", &entries);
        },
        &[
            "fdinfo-2.img entry 6: descriptor 0 a second time",
            "fdinfo-3.img entry 6: descriptor 0 a second time",
        ],
    );
    // Id 99, no flags, a regular file, descriptor 0: sound by itself.
    check(
        |copy| {
            copy.set_entries("fdinfo-2.img", &[vec![8, 99, 16, 0, 24, 1, 32, 0]]);
            copy.set_entries("fdinfo-3.img", &[vec![8, 99, 16, 0, 24, 1, 32, 0]]);
        },
        &[
            "fdinfo-2.img entry 0: the file of descriptor 0 is 0x63, which files.img lacks",
            "fdinfo-3.img entry 0: the file of descriptor 0 is 0x63, which files.img lacks",
        ],
    );
}

#[test]
fn address_spaces_of_the_same_bytes() {
    let copy = Copy::new();
    for kind in ["mm", "pagemap"] {
        copy.write(&format!("{kind}-4713.img"), &copy.bytes(&format!("{kind}-4711.img")));
    }
    fs::remove_file(copy.path("pages-2.img")).unwrap();
    let model = copy.read().unwrap();
    let mm = |index: usize| &model.tasks[index].alive().unwrap().mm;
    let expected = format!("{:?}", mm(0)).replace("Mm(4711)", "Mm(4713)");
    assert_eq!(format!("{:?}", mm(1)), expected);
    // Its pages are its own, and are held against the mappings all the same.
    let mut entries = copy.entries("pagemap-4713.img");
    let mut last = PagemapEntry::decode(&entries.pop().unwrap()[..]).unwrap();
    let was = last.vaddr;
    last.vaddr = 0x7fff_ffff_0000;
    entries.push(last.encode_to_vec());
    copy.set_entries("pagemap-4713.img", &entries);
    let errors = copy.read().unwrap_err();
    assert_ne!(was, last.vaddr);
    let entry = entries.len() - 1;
    assert_eq!(
        errors.errors()[0].to_string(),
        format!("pagemap-4713.img entry {entry}: pages at 0x7fffffff0000, where nothing is mapped")
    );
}

#[test]
fn the_highest_pid() {
    let copy = Copy::new();
    assert_eq!(highest_pid(copy.0.path()), Some(4713));
    // Of the dead the threads are anything.
    let mut entries = copy.entries("pstree.img");
    entries[1].extend([40, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    copy.set_entries("pstree.img", &entries);
    assert_eq!(highest_pid(copy.0.path()), Some(4713));
    fs::remove_file(copy.path("core-4713.img")).unwrap();
    assert_eq!(highest_pid(copy.0.path()), Some(4711));
    assert_eq!(highest_pid(&copy.path("nowhere")), None);
}

/// What is said of whole processes is decoded once; the rest of a core image is its own.
#[test]
fn processes_of_the_same_bytes() {
    let copy = Copy::new();
    let core =
        |copy: &Copy, pid: u32| CoreEntry::decode(&copy.entries(&format!("core-{pid}.img"))[0][..]).unwrap();
    let (first, second) = (core(&copy, 4711), core(&copy, 4713));
    let mixed = CoreEntry { tc: first.tc.clone(), ..second.clone() };
    copy.set_entries("core-4713.img", &[mixed.encode_to_vec()]);
    let (model, other) = (copy.read().unwrap(), read_model(&pair()).unwrap());
    let alive = |model: &Model, index: usize| model.tasks[index].alive().unwrap().clone();
    let (read, parent, child) = (alive(&model, 1), alive(&other, 0), alive(&other, 1));
    assert_eq!((&read.comm, &read.sigactions), (&parent.comm, &parent.sigactions));
    assert_eq!(read.threads[0].blocked, parent.threads[0].blocked);
    let thread = |alive: &Alive| format!("{:?}", alive.threads[0].regs);
    assert_eq!(thread(&read), thread(&child));
    assert_ne!(thread(&read), thread(&parent));
    // What is wrong with the rest is said as ever, and of the image that has it.
    let mut entry = mixed.encode_to_vec();
    entry.extend([0xf8, 0x01, 7]);
    copy.set_entries("core-4713.img", &[entry]);
    let errors = copy.read().unwrap_err();
    assert_eq!(
        errors.errors()[0].to_string(),
        "core-4713.img entry 0: unsupported: unknown field 31 in core_entry"
    );
}
