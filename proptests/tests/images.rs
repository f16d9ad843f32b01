//! Descriptions of synthetic forests through the real stages: written, read, resolved, planned, lowered, certified.
//!
//! `REGROW_CASES` is how many cases each property gets, instead of its own number.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regrow::image::{self, Contents, Image, Model};
use regrow::synth::model::Synthetic;
use regrow::synth::{Forest, PAGE};
use regrow::tape::Tapes;
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Planned, Refused, Room, incremental, model_of, plan};
use regrow_proptests::reorder::{Numbers, reorder};

static ROOM: LazyLock<Room> = LazyLock::new(|| Room::new("images"));

fn config(cases: u32) -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/images.txt");
    let wanted = std::env::var("REGROW_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

fn forests() -> impl Strategy<Value = Forest> {
    descriptions(&ROOM.files(), 16)
}

/// The plan of a forest; `None`: it was refused for a reason that the documentation has.
fn planned(forest: &Forest, name: &str) -> Result<Option<Planned>, TestCaseError> {
    prop_assert_eq!(forest.faults(), Vec::<String>::new());
    let synthetic = model_of(forest).map_err(TestCaseError::fail)?;
    let dir = ROOM.write(name, &synthetic).map_err(TestCaseError::fail)?;
    match plan(&dir) {
        Ok(planned) => Ok(Some(planned)),
        Err(Refused::Problems(said)) => {
            // A group in a session that cannot be reached has no leader either, and that is said, too.
            let is_session = |text: &String| text.contains("cannot be inherited: no ancestor is in it");
            let is_group = |text: &String| text.contains("has no living leader in the tree");
            // It has come to its parent by the death of another, or who forks it has its session from elsewhere.
            let is_shared = |text: &String| text.contains("shares its descriptor table with its parent");
            let is_known = said.iter().all(|text| is_session(text) || is_group(text) || is_shared(text));
            prop_assert!(is_known && said.iter().any(|text| is_session(text) || is_shared(text)), "{said:?}");
            Ok(None)
        }
        Err(Refused::Defect(what)) => Err(TestCaseError::fail(what)),
    }
}

proptest! {
    #![proptest_config(config(300))]

    /// What is not refused by name has a certificate.
    #[test]
    fn what_is_planned_is_certified(forest in forests()) {
        let Some(planned) = planned(&forest, "certified")? else { return Ok(()) };
        let certified = planned.certify();
        prop_assert!(certified.is_ok(), "{}", certified.err().map_or(String::new(), |error| error.to_string()));
    }

    /// Where entries stand, and which numbers tie them together, is nothing to the plan.
    #[test]
    fn order_and_numbers_break_no_tie(forest in forests(), seed in any::<u64>()) {
        let Some(planned) = planned(&forest, "ordered")? else { return Ok(()) };
        let synthetic = model_of(&forest).map_err(TestCaseError::fail)?;
        for numbers in [Numbers::Kept, Numbers::InOrder, Numbers::Any] {
            let other = Synthetic { model: reorder(&synthetic.model, seed, numbers), ..synthetic.clone() };
            let dir = ROOM.write("ordered", &other).map_err(TestCaseError::fail)?;
            let again = plan(&dir).map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
            prop_assert!(again.tapes == planned.tapes, "{numbers:?}: {}", first_difference(&planned.tapes, &again.tapes));
        }
    }

    /// What is written reads as it was; only pieces of raw bytes lie elsewhere. Its pages are those that were made, of
    /// however many dumps they are.
    #[test]
    fn what_is_written_reads_the_same(forest in forests(), seed in any::<u64>(), dumps in 0..4u32) {
        let whole = model_of(&forest).map_err(TestCaseError::fail)?;
        let synthetic = incremental(&whole, seed, dumps).map_err(TestCaseError::fail)?;
        let spread = pages(&synthetic.model, &synthetic.contents)?;
        prop_assert!(spread == pages(&whole.model, &whole.contents)?, "pages are lost on the way");
        let model = reorder(&synthetic.model, seed, Numbers::Any);
        let made = Synthetic { model, ..synthetic };
        let dir = ROOM.write("written", &made).map_err(TestCaseError::fail)?;
        let read = image::read_model(&dir).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        let mut model = made.model.clone();
        image::arrange(&mut model);
        for (made_of, read_from) in blobs(&model).iter().zip(blobs(&read)) {
            let (made_of, read_from) = (made.contents.bytes(made_of), image::open_blob(&read, &read_from));
            prop_assert_eq!(made_of.ok().map(|bytes| bytes.into_owned()), read_from.ok());
        }
        let (of_made, of_read) = (pages(&made.model, &made.contents)?, pages(&read, &read)?);
        prop_assert!(of_made == of_read, "pages have become others");
        let (read, model) = (without_places(read), without_places(model));
        let differ = read.lines().zip(model.lines()).find(|(read, made)| read != made);
        prop_assert!(read == model, "{differ:?}");
    }

    /// The plan does not depend on how many threads make it.
    #[test]
    fn threads_change_nothing(forest in forests()) {
        let Some(planned) = planned(&forest, "threads")? else { return Ok(()) };
        for count in [1, 2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build();
            let pool = pool.map_err(|error| TestCaseError::fail(error.to_string()))?;
            let again = pool.install(|| plan(&planned.model.dir));
            let again = again.map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
            prop_assert!(again.tapes == planned.tapes, "{count} threads: {}", first_difference(&planned.tapes, &again.tapes));
        }
    }
}

/// All stored pages, by whose they are and where.
fn pages(
    model: &Model,
    contents: &impl Contents,
) -> Result<BTreeMap<(image::Image, u64), Vec<u8>>, TestCaseError> {
    let tasks = model.tasks.iter().filter_map(|task| Some((Image::Pagemap(task.pid.0), &task.alive()?.mm)));
    let rings = tasks.clone().flat_map(|(of, mm)| mm.aio_rings.iter().map(move |ring| (of, &ring.pages)));
    let tasks = tasks.map(|(of, mm)| (of, &mm.pages.extents));
    let segments = model.shm.iter().map(|shm| (Image::PagemapShmem(shm.shmid), &shm.pages.extents));
    let mut all = BTreeMap::new();
    for (of, extents) in tasks.chain(rings).chain(segments) {
        for extent in extents {
            for at in (0..extent.len_pages).map(|page| page * PAGE) {
                let offset_bytes = extent.offset_bytes + at;
                let blob = image::Blob { image: Image::Pages(extent.image), offset_bytes, len_bytes: PAGE };
                let bytes = contents.bytes(&blob).map_err(|error| TestCaseError::fail(error.to_string()))?;
                all.insert((of, extent.start + at), bytes.into_owned());
            }
        }
    }
    Ok(all)
}

/// Where in the images raw bytes are.
fn blobs(model: &Model) -> Vec<image::Blob> {
    let pipes = model.pipe_data.iter().chain(&model.fifo_data).map(|pipe| pipe.data);
    let messages = model.ipc.values().flat_map(|ns| &ns.queues).flat_map(|queue| &queue.messages);
    let values = model.ipc.values().flat_map(|ns| &ns.semaphores).map(|set| set.values);
    let packets = model.packets.iter().map(|packet| packet.data);
    pipes.chain(packets).chain(messages.map(|message| message.data)).chain(values).collect()
}

/// The model in words, without where in the images raw bytes lie.
fn without_places(mut model: Model) -> String {
    model.dir.clear();
    model.parents.clear();
    model.pipe_data.iter_mut().for_each(|pipe| pipe.data.offset_bytes = 0);
    model.packets.iter_mut().for_each(|packet| packet.data.offset_bytes = 0);
    for ns in model.ipc.values_mut() {
        let messages = ns.queues.iter_mut().flat_map(|queue| &mut queue.messages);
        messages.for_each(|message| message.data.offset_bytes = 0);
        ns.semaphores.iter_mut().for_each(|set| set.values.offset_bytes = 0);
    }
    format!("{model:#?}")
}

/// The first record in which two plans differ.
fn first_difference(one: &Tapes, other: &Tapes) -> String {
    if one.tasks.len() != other.tasks.len() {
        return format!("{} tapes, not {}", other.tasks.len(), one.tasks.len());
    }
    for (a, b) in one.tasks.iter().zip(&other.tasks) {
        let lines = |tapes: &Tapes, task| -> Vec<String> {
            tapes.records(task).map(|(_, record)| regrow::tape::disasm::line(tapes, &record)).collect()
        };
        let (was, is) = (lines(one, a), lines(other, b));
        let differs = |at: &usize| was.get(*at) != is.get(*at);
        if let Some(at) = (0..was.len().max(is.len())).find(differs) {
            return format!("task {}, record {at}: {:?}, was {:?}", a.pid, is.get(at), was.get(at));
        }
    }
    "the tapes say the same, and lie otherwise".to_owned()
}
