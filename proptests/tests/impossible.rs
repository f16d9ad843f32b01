//! Forests that cannot be planned: an error that says so, never a panic, never a wrong plan.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;
use regrow_graph::family::Cradle;
use regrow_graph::forest::{Descent, Life, ResourceSpec, Slot, StepSpec, TaskSpec};
use regrow_graph::ids::{OfdId, ResourceId, StepId};
use regrow_graph::order::{PlanError, plan_in};
use regrow_graph::place::PlaceError;
use regrow_graph::raise::raise;
use regrow_proptests::forests::{FIRST_SPARE, cases};
use regrow_proptests::kernel::{CRADLE_PGID, CRADLE_SID};
use regrow_proptests::play::{Schedule, play};

fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/impossible.txt");
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 20_000,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Sessions and groups at random: what is planned all the same can be played on a kernel with
    /// Linux's rules, so it was possible; the rest is refused as what it is.
    #[test]
    fn sessions_are_possible_or_refused(
        mut case in cases(),
        changes in prop::collection::vec((any::<Index>(), any::<Index>(), 0u8..4), 1..6),
        seed in any::<u64>(),
        is_raised: bool,
    ) {
        // Before or after it was found out who forks whom.
        if is_raised {
            case.unraised = case.forest.clone();
        }
        case.forest = case.unraised.clone();
        for (who, whom, what) in changes {
            let count = case.forest.tasks.len();
            let other = case.forest.tasks[whom.index(count)].clone();
            let task = &mut case.forest.tasks[who.index(count)];
            match what {
                0 => task.sid = other.pid,
                1 => task.pgid = other.pid,
                2 => (task.sid, task.pgid) = (other.sid, other.pgid),
                _ => (task.sid, task.pgid) = (CRADLE_SID, CRADLE_PGID),
            }
        }
        if !is_raised {
            raise(&mut case.forest, case.cradle, &mut (FIRST_SPARE..));
            // A leader that is outside and alive cannot be stood in for: its number is taken, as is found
            // by looking at the host.
            let is_outside = |pid| pid == CRADLE_SID || pid == CRADLE_PGID;
            prop_assume!(!case.forest.tasks.iter().any(|task| task.life == Life::Helper && is_outside(task.pid)));
        }
        match plan_in(&case.forest, case.cradle) {
            Ok(plan) => {
                for schedule in [Schedule::Random(seed), Schedule::Planned] {
                    let played = play(&case.forest, &plan, schedule);
                    prop_assert!(played.is_ok(), "{played:?}");
                }
            }
            Err(PlanError::Family(errors)) => prop_assert!(!errors.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// A session that no ancestor was ever in.
    #[test]
    fn foreign_sessions_are_refused(mut case in cases(), who in any::<Index>(), sid in 1000u32..1010) {
        let processes: Vec<usize> = (0..case.forest.tasks.len()).filter(|at| case.forest.tasks[*at].life != Life::Thread).collect();
        let at = processes[who.index(processes.len())];
        case.forest.tasks[at].sid = sid;
        prop_assert!(matches!(plan_in(&case.forest, case.cradle), Err(PlanError::Family(_))));
    }

    /// Without a cradle nobody can be in the session of who restores.
    #[test]
    fn no_cradle_no_session(case in cases()) {
        let is_in_it = case.forest.tasks.iter().any(|task| task.sid == CRADLE_SID);
        let result = plan_in(&case.forest, Cradle::default());
        prop_assert_eq!(is_in_it, matches!(result, Err(PlanError::Family(_))));
    }

    /// A description that nothing makes, in a table or in a step, numbered within the forest or not.
    #[test]
    fn unmade_descriptions_are_refused(mut case in cases(), who in any::<Index>(), beyond in 0u32..3, in_step: bool) {
        let ofd = OfdId(case.forest.ofds as u32 + beyond);
        case.forest.ofds += 1;
        let living: Vec<usize> = (0..case.forest.tasks.len()).filter(|at| case.forest.tasks[*at].life == Life::Lives).collect();
        let at = living[who.index(living.len())];
        let steps = case.forest.tasks[at].steps.clone();
        match steps.first().filter(|_| in_step) {
            Some(step) => case.forest.steps[step.index()].needs.push(ofd),
            None => case.forest.tasks[at].table.push(Slot { fd: 1000, ofd, cloexec: false }),
        }
        let result = plan_in(&case.forest, case.cradle);
        let Err(PlanError::Place(errors)) = result else { panic!("{result:?}") };
        let is_named = errors.iter().all(|error| matches!(error, PlaceError::Unmade { ofd: it, .. } if *it == ofd));
        prop_assert!(is_named, "{errors:?}");
    }

    /// A description that two resources, or one resource twice, claim to make.
    #[test]
    fn double_descriptions_are_refused(mut case in cases(), which in any::<Index>(), twice: bool) {
        let ofds: Vec<OfdId> = case.forest.resources.iter().flat_map(|resource| &resource.yields).flatten().copied().collect();
        prop_assume!(!ofds.is_empty());
        let ofd = ofds[which.index(ofds.len())];
        if twice {
            for resource in &mut case.forest.resources {
                if resource.yields.contains(&Some(ofd)) {
                    resource.yields.push(Some(ofd));
                }
            }
        } else {
            case.forest.resources.push(ResourceSpec { yields: vec![Some(ofd)], ..ResourceSpec::default() });
        }
        let result = plan_in(&case.forest, case.cradle);
        let Err(PlanError::Place(errors)) = result else { panic!("{result:?}") };
        let is_named = errors.iter().all(|error| matches!(error, PlaceError::MadeTwice { ofd: it, .. } if *it == ofd));
        prop_assert!(is_named, "{errors:?}");
    }

    /// Steps that are given no descriptors cannot need any.
    #[test]
    fn needs_out_of_place_are_refused(mut case in cases(), who in any::<Index>(), place in 0u8..3) {
        let ofds: Vec<OfdId> = case.forest.resources.iter().flat_map(|resource| &resource.yields).flatten().copied().collect();
        prop_assume!(!ofds.is_empty());
        let added = StepId::new(case.forest.steps.len());
        case.forest.steps.push(StepSpec { needs: vec![ofds[0]] });
        let at = who.index(case.forest.tasks.len());
        let spec = &mut case.forest.tasks[at];
        [&mut spec.birth, &mut spec.with_threads, &mut spec.tail][usize::from(place)].push(added);
        let Err(PlanError::Place(errors)) = plan_in(&case.forest, case.cradle) else { panic!("a plan") };
        let is_named = errors.iter().all(|error| matches!(error, PlaceError::NeedsNothing { step, .. } if *step == added));
        prop_assert!(is_named, "{errors:?}");
    }

    /// The dead and threads fork nobody.
    #[test]
    fn children_of_the_dead_are_refused(mut case in cases(), who in any::<Index>(), life in prop_oneof![Just(Life::Zombie), Just(Life::Thread)]) {
        let parents: Vec<usize> = case.forest.tasks.iter().filter(|task| matches!(task.life, Life::Lives | Life::Zombie) && task.descent == Descent::Own).filter_map(|task| task.parent).map(|id| id.index()).collect();
        prop_assume!(!parents.is_empty());
        let at = parents[who.index(parents.len())];
        prop_assume!(at != 0);
        case.forest.tasks[at] = TaskSpec { life, table: Vec::new(), steps: Vec::new(), with_threads: Vec::new(), tail: Vec::new(), ..case.forest.tasks[at].clone() };
        let result = plan_in(&case.forest, case.cradle);
        prop_assert!(result.is_err(), "{result:?}");
    }

    /// Finishing a resource may not need a resource before it, nor itself.
    #[test]
    fn finish_looks_behind(mut case in cases(), which in any::<Index>()) {
        let used: Vec<usize> = (0..case.forest.resources.len())
            .filter(|at| {
                let yields = &case.forest.resources[*at].yields;
                case.forest.tasks.iter().flat_map(|task| &task.table).any(|slot| yields.contains(&Some(slot.ofd)))
            })
            .collect();
        prop_assume!(!used.is_empty());
        let at = used[which.index(used.len())];
        let own = case.forest.resources[..=at].iter().flat_map(|resource| &resource.yields).flatten().next().copied();
        let Some(own) = own else { return Ok(()) };
        let step = StepId::new(case.forest.steps.len());
        case.forest.steps.push(StepSpec { needs: vec![own] });
        case.forest.resources[ResourceId::new(at).index()].finish.push(step);
        let result = plan_in(&case.forest, case.cradle);
        let is_refused = matches!(result, Err(PlanError::Place(_)));
        prop_assert!(is_refused, "{result:?}");
    }
}
