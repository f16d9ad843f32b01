//! Who makes what, and to whom it goes in messages instead of by inheritance.
//!
//! Without an [`Assignment`] every resource is made by the lowest common ancestor of its users and inherited.
//! An assignment names, for some resources, who makes them and which users *take* them: they receive the
//! descriptions over a unix socket (`SCM_RIGHTS`, unix(7)). Whoever else uses such a resource inherits it
//! from the nearest task above that makes or takes it. Who makes it need not be above or below who takes
//! it, need not use it, and may die when it has sent it.
//!
//! [`arrange`] turns an assignment into *messages* and *channels*. A channel is a resource of the forest as any
//! other: a pair of sockets that the lowest common ancestor of its users makes and they inherit, at numbers
//! that no task wants. It carries messages one way, from one task. There are two kinds:
//!
//! - A *board* holds one message for several takers. They look at it and do not take it away (`MSG_PEEK`,
//!   which gives the descriptors all the same), so it is sent once, however many they are, and they need
//!   no order among them. It goes when the last of them closes the channel.
//! - A *lane* holds messages for one taker each, who take them in the order in which they were sent: each
//!   waits for the one before. So a few channels serve any number of takers, and no table gets long.
//!
//! Nobody ever waits to send: no more messages go into a channel than it takes unread. A task sends all
//! before it receives anything, and what it receives comes in the order of the messages, which is one for all. So waits for messages
//! cannot run in a circle.
//!
//! Example: three tasks share a file that the second makes. Then the first makes a channel and forks both
//! others; the second opens the file and sends it, the first and the third look at it.

use std::collections::{BTreeMap, BTreeSet};

use crate::forest::{Forest, Life, ResourceSpec};
use crate::ids::{Fd, OfdId, ResourceId, TaskId};
use crate::needs::Needs;

/// The most descriptors that one message carries (`SCM_MAX_FD`, include/net/scm.h).
pub const MOST_IN_MESSAGE: usize = 253;

/// How many takers a lane has at most: each has to wait for those before it.
const LANE: usize = 64;
/// How many boards a task has at most; what they would serve least goes by lanes.
const BOARDS: usize = 16;
/// How many descriptors less must be sent by a board, to be worth the two that it is in the tables on the way.
const LEAST_SAVED: usize = 8;

/// Who makes a resource and who receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Who makes it.
    pub creator: TaskId,
    /// Who receives it, sorted; the creator is not among them.
    pub takers: Vec<TaskId>,
}

/// How resources come to their users where that is not by inheritance from their lowest common ancestor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The deliveries, by resource.
    pub deliveries: BTreeMap<ResourceId, Delivery>,
    /// Whether nobody makes what is sent before all have been forked, and nobody goes on before all have what they
    /// need. Then nobody can inherit anything from who receives it.
    pub is_staged: bool,
    /// How many messages a channel takes while nobody receives any; 0: as many as are ever put into one.
    pub room: usize,
}

/// A message with descriptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it goes through: it yields the sending end, then the receiving end.
    pub channel: ResourceId,
    /// Who sends it.
    pub giver: TaskId,
    /// What is in it, in this order.
    pub ofds: Vec<OfdId>,
    /// Who receives it. If they are several it stays where it is.
    pub takers: Vec<TaskId>,
}

/// What goes over channels, as the planner sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passing {
    /// As in the assignment.
    pub deliveries: BTreeMap<ResourceId, Delivery>,
    /// As in the assignment.
    pub is_staged: bool,
    /// All messages, in the order in which every task sends and receives its own.
    pub messages: Vec<Message>,
}

impl Passing {
    /// Whether `task` receives `resource`.
    pub fn takes(&self, task: TaskId, resource: ResourceId) -> bool {
        self.deliveries.get(&resource).is_some_and(|delivery| delivery.takers.binary_search(&task).is_ok())
    }

    /// Whether somebody receives what `resource` yields.
    pub fn is_passed(&self, resource: ResourceId) -> bool {
        self.deliveries.get(&resource).is_some_and(|delivery| !delivery.takers.is_empty())
    }

    /// Whether `task` has `resource` without inheriting it.
    pub fn is_source(&self, task: TaskId, resource: ResourceId) -> bool {
        self.takes(task, resource)
            || self.deliveries.get(&resource).is_some_and(|delivery| delivery.creator == task)
    }
}

/// The assignment by CRIU's rule: whoever has the lowest pid among the users of a resource makes it, all others
/// receive it, and everything goes in stages (criu/files.c, `file_master`).
///
/// What is in no table stays inherited: memory that is shared has no descriptor, and what is
/// opened only to be mapped or read from is no open file description of the images.
pub fn lowest_pid(forest: &Forest) -> Assignment {
    let of_ofd = forest.resource_of_ofd();
    let mut users: Vec<Vec<TaskId>> = vec![Vec::new(); forest.resources.len()];
    let mut is_in_table = vec![false; forest.resources.len()];
    for (index, task) in forest.tasks.iter().enumerate() {
        for slot in &task.table {
            if let Some(resource) = of_ofd.get(slot.ofd.index()).copied().flatten() {
                is_in_table[resource.index()] = true;
            }
        }
        for ofd in used_by(forest, index) {
            if let Some(resource) = of_ofd.get(ofd.index()).copied().flatten() {
                users[resource.index()].push(TaskId::new(index));
            }
        }
    }
    // Who finishes what an ancestor makes needs it there, and memory that children inherit needs it before they are
    // forked.
    let mut stays = vec![false; forest.resources.len()];
    let finishing = forest.resources.iter().flat_map(|resource| &resource.finish);
    let before_forks = forest.tasks.iter().flat_map(|task| &task.before_forks);
    for ofd in finishing.chain(before_forks).flat_map(|step| &forest.steps[step.index()].needs) {
        if let Some(resource) = of_ofd.get(ofd.index()).copied().flatten() {
            stays[resource.index()] = true;
        }
    }
    let mut assignment = Assignment { is_staged: true, ..Assignment::default() };
    for (index, mut users) in users.into_iter().enumerate() {
        if !is_in_table[index] || stays[index] {
            continue;
        }
        users.extend(&forest.resources[index].users);
        users.sort_unstable();
        users.dedup();
        let Some(creator) = users.iter().copied().min_by_key(|task| forest.tasks[task.index()].pid) else {
            continue;
        };
        users.retain(|task| *task != creator);
        assignment.deliveries.insert(ResourceId::new(index), Delivery { creator, takers: users });
    }
    assignment
}

/// What a task has in its table or needs in a step, with repetitions.
fn used_by(forest: &Forest, task: usize) -> impl Iterator<Item = OfdId> + '_ {
    let spec = &forest.tasks[task];
    let in_steps =
        spec.before_forks.iter().chain(&spec.steps).flat_map(|step| &forest.steps[step.index()].needs);
    spec.table.iter().map(|slot| &slot.ofd).chain(in_steps).copied()
}

/// Puts an assignment into a forest: the messages, and a resource for each channel behind all others. Gives how many
/// channels there are.
pub fn arrange(forest: &mut Forest, assignment: &Assignment) -> usize {
    let first = forest.resources.len();
    forest.passing = Passing {
        deliveries: assignment.deliveries.clone(),
        is_staged: assignment.is_staged,
        messages: Vec::new(),
    };
    let Takers { of_ofd: takers, early } = find_takers(forest);
    let mut births = vec![0; forest.tasks.len()];
    for (at, task) in forest.birth_order().into_iter().enumerate() {
        births[task.index()] = at;
    }
    // What each task gives, by who takes it.
    let mut given: BTreeMap<TaskId, BTreeMap<Vec<TaskId>, Vec<OfdId>>> = BTreeMap::new();
    for (resource, delivery) in &assignment.deliveries {
        for ofd in forest.resources[resource.index()].yields.iter().flatten() {
            let takers = &takers[ofd.index()];
            if !takers.is_empty() {
                given.entry(delivery.creator).or_default().entry(takers.clone()).or_default().push(*ofd);
            }
        }
    }
    let room = if assignment.room == 0 { LANE } else { assignment.room.min(LANE) };
    for (giver, groups) in given {
        let (boards, alone) = split(groups);
        for (takers, ofds) in boards {
            for ofds in in_order(forest, &takers, ofds).chunks(MOST_IN_MESSAGE) {
                let channel = add_channel(forest, giver, &takers);
                let message = Message { channel, giver, ofds: ofds.to_vec(), takers: takers.clone() };
                forest.passing.messages.push(message);
            }
        }
        // Who must have it before a fork waits for nobody who receives later, or is born later.
        let mut lanes: [Vec<(TaskId, Vec<OfdId>)>; 2] = Default::default();
        let mut alone: Vec<(TaskId, Vec<OfdId>)> = alone.into_iter().collect();
        alone.sort_by_key(|(taker, _)| births[taker.index()]);
        for (taker, ofds) in alone {
            let (now, later): (Vec<_>, Vec<_>) =
                ofds.into_iter().partition(|ofd| early.contains(&(taker, *ofd)));
            for (lane, ofds) in lanes.iter_mut().zip([now, later]) {
                let ofds = in_order(forest, &[taker], ofds);
                lane.extend(ofds.chunks(MOST_IN_MESSAGE).map(|ofds| (taker, ofds.to_vec())));
            }
        }
        for lane in lanes.iter().flat_map(|messages| messages.chunks(even(messages.len(), room))) {
            let takers: Vec<TaskId> = lane.iter().map(|(taker, _)| *taker).collect();
            let channel = add_channel(forest, giver, &takers);
            for (taker, ofds) in lane {
                let message = Message { channel, giver, ofds: ofds.clone(), takers: vec![*taker] };
                forest.passing.messages.push(message);
            }
        }
    }
    forest.resources.len() - first
}

/// How long pieces are that are as long as each other and no longer than `most`.
fn even(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most).max(1)).max(1)
}

/// Groups of descriptions that the same tasks take, and what is left for single tasks.
type Split = (Vec<(Vec<TaskId>, Vec<OfdId>)>, BTreeMap<TaskId, Vec<OfdId>>);

/// What goes on boards: the groups that save the most sending.
fn split(groups: BTreeMap<Vec<TaskId>, Vec<OfdId>>) -> Split {
    let mut groups: Vec<(Vec<TaskId>, Vec<OfdId>)> = groups.into_iter().collect();
    let saved = |(takers, ofds): &(Vec<TaskId>, Vec<OfdId>)| (takers.len() - 1) * ofds.len();
    groups.sort_by_key(|group| std::cmp::Reverse(saved(group)));
    let served = groups.iter().take(BOARDS).take_while(|group| saved(group) >= LEAST_SAVED).count();
    let mut alone: BTreeMap<TaskId, Vec<OfdId>> = BTreeMap::new();
    for (takers, ofds) in groups.split_off(served) {
        for taker in takers {
            alone.entry(taker).or_default().extend(&ofds);
        }
    }
    (groups, alone)
}

/// In the order in which the first taker has them in its table: what is received fills the lowest free numbers.
fn in_order(forest: &Forest, takers: &[TaskId], mut ofds: Vec<OfdId>) -> Vec<OfdId> {
    let mut numbers: BTreeMap<OfdId, Fd> = BTreeMap::new();
    for slot in takers.first().iter().flat_map(|taker| &forest.tasks[taker.index()].table) {
        let number = numbers.entry(slot.ofd).or_insert(slot.fd);
        *number = slot.fd.min(*number);
    }
    ofds.sort_by_key(|ofd| (numbers.get(ofd).copied().unwrap_or(Fd::MAX), *ofd));
    ofds
}

fn add_channel(forest: &mut Forest, giver: TaskId, takers: &[TaskId]) -> ResourceId {
    let [sending, receiving] = [0, 1].map(|end| OfdId::new(forest.ofds + end));
    forest.ofds += 2;
    let mut users = vec![giver];
    users.extend(takers);
    users.sort_unstable();
    users.dedup();
    forest.resources.push(ResourceSpec {
        yields: vec![Some(sending), Some(receiving)],
        users,
        finish: Vec::new(),
    });
    ResourceId::new(forest.resources.len() - 1)
}

/// What whoever makes a resource needs to finish it, of what is passed.
fn used_to_finish(forest: &Forest, of_ofd: &[Option<ResourceId>]) -> Vec<(TaskId, OfdId)> {
    let is_passed = |ofd: &OfdId| {
        of_ofd.get(ofd.index()).copied().flatten().is_some_and(|resource| forest.passing.is_passed(resource))
    };
    let needed = |resource: &ResourceSpec| -> Vec<OfdId> {
        let needs = resource.finish.iter().flat_map(|step| &forest.steps[step.index()].needs);
        needs.copied().filter(is_passed).collect()
    };
    let needed: Vec<Vec<OfdId>> = forest.resources.iter().map(needed).collect();
    if needed.iter().all(Vec::is_empty) {
        return Vec::new();
    }
    // What is wrong with the forest is for placement to say.
    let owners = Needs::find(forest).map(|needs| needs.owners).unwrap_or_default();
    let by_owner = owners.into_iter().zip(needed).filter_map(|(owner, ofds)| Some((owner?, ofds)));
    by_owner.flat_map(|(owner, ofds)| ofds.into_iter().map(move |ofd| (owner, ofd))).collect()
}

/// Who takes what.
struct Takers {
    /// For each description who takes it, sorted: all takers that use it or are above a user that does.
    of_ofd: Vec<Vec<TaskId>>,
    /// What they take for somebody below.
    early: BTreeSet<(TaskId, OfdId)>,
}

fn find_takers(forest: &Forest) -> Takers {
    let mut early = BTreeSet::new();
    let passing = &forest.passing;
    let of_ofd = forest.resource_of_ofd();
    let mut takers: Vec<Vec<TaskId>> = vec![Vec::new(); forest.ofds];
    let in_tasks = (0..forest.tasks.len())
        .filter(|index| forest.tasks[*index].life == Life::Lives)
        .flat_map(|index| used_by(forest, index).map(move |ofd| (TaskId::new(index), ofd)));
    for (user, ofd) in in_tasks.chain(used_to_finish(forest, &of_ofd)) {
        let Some(resource) = of_ofd.get(ofd.index()).copied().flatten() else { continue };
        if !passing.is_passed(resource) {
            continue;
        }
        let above = std::iter::successors(Some(user), |task| forest.tasks[task.index()].parent);
        let source = above.take(forest.tasks.len()).find(|task| passing.is_source(*task, resource));
        if let Some(source) = source.filter(|source| passing.takes(*source, resource)) {
            takers[ofd.index()].push(source);
            if source != user {
                early.insert((source, ofd));
            }
        }
    }
    for takers in &mut takers {
        takers.sort_unstable();
        takers.dedup();
    }
    Takers { of_ofd: takers, early }
}
