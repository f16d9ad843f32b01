//! Events of a tree's life into its tasks, sessions and process groups.
//!
//! What comes out is possible because it has happened: every event that Linux would refuse is
//! skipped. Tasks may die in any place: their children go to the nearest subreaper above, and the root
//! is one. Two things that Linux allows are left out, because they cannot be planned: a group's
//! leader leaves the group to others, and a task whose children are in the group that the root was
//! born in (its leader is no task of the tree) leaves that group other than by setsid.
//!
//! Example: `[Fork root, SetSid 1, Fork 1]` gives a root, a child that leads a session and a
//! grandchild in the child's session.

use proptest::prelude::*;
use regrow_graph::family::Cradle;
use regrow_graph::forest::{Life, TaskSpec};
use regrow_graph::ids::TaskId;

use crate::kernel::{CRADLE_PGID, CRADLE_SID};

/// Most tasks of a tree.
pub const MAX_TASKS: usize = 60;

/// One event. Tasks are chosen by number, modulo how many there are.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A task forks.
    Fork(u16),
    /// A task forks a sibling.
    ForkSibling(u16),
    /// A task forks one that leads a session, forks two and dies. Bits: 1: it is not reaped; 2: it leads
    /// no session; 4: it dies after the first fork, and the child forks the other; 8: one of the two
    /// dies; 16: one leads a group; 32: the task is a subreaper.
    Daemon(u16, u8),
    /// Three tasks above a task become subreapers, the highest first, and each gets a grandchild of the
    /// task, which leads a session. Bits: 1: the task dies; 2: it is reaped; 4: a grandchild dies.
    Orphans(u16, u8),
    /// A task becomes a subreaper.
    Subreaper(u16),
    /// A task calls setsid(2).
    SetSid(u16),
    /// A task founds a group.
    Found(u16),
    /// The first joins the group of the second.
    Join(u16, u16),
    /// A task dies.
    Die(u16),
    /// A task dies and is reaped.
    Reap(u16),
}

/// Who forks, where the event leaves it open.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Mostly the newest task: deep chains.
    Deep,
    /// Mostly the root: wide trees.
    Wide,
    /// Anyone.
    Any,
}

/// The life of a tree.
#[derive(Debug, Clone)]
pub struct History {
    /// Who forks.
    pub shape: Shape,
    /// Whether the planner is told the session and group that the root is born in.
    pub has_cradle: bool,
    /// Permutes the ids (parents stay before children); 0 leaves them in the order of birth.
    pub renumber: u16,
    /// What happens.
    pub events: Vec<Event>,
}

/// Random histories.
pub fn histories() -> impl Strategy<Value = History> {
    let event = prop_oneof![
        10 => any::<u16>().prop_map(Event::Fork),
        1 => any::<u16>().prop_map(Event::ForkSibling),
        2 => any::<(u16, u8)>().prop_map(|(who, how)| Event::Daemon(who, how)),
        2 => any::<(u16, u8)>().prop_map(|(who, how)| Event::Orphans(who, how)),
        1 => any::<u16>().prop_map(Event::Subreaper),
        2 => any::<u16>().prop_map(Event::SetSid),
        3 => any::<u16>().prop_map(Event::Found),
        6 => any::<(u16, u16)>().prop_map(|(who, whom)| Event::Join(who, whom)),
        2 => any::<u16>().prop_map(Event::Die),
        2 => any::<u16>().prop_map(Event::Reap),
    ];
    let shape = prop_oneof![2 => Just(Shape::Any), 1 => Just(Shape::Deep), 1 => Just(Shape::Wide)];
    let events = prop_oneof![3 => prop::collection::vec(event.clone(), 0..30), 1 => prop::collection::vec(event, 30..110)];
    (shape, any::<bool>(), any::<u16>(), events).prop_map(|(shape, has_cradle, renumber, events)| History {
        shape,
        has_cradle,
        renumber,
        events,
    })
}

struct Person {
    parent: Option<usize>,
    pid: u32,
    sid: u32,
    pgid: u32,
    is_subreaper: bool,
    is_dead: bool,
    is_reaped: bool,
}

impl Person {
    fn child_of(parent: usize, by: &Person, number: usize) -> Person {
        Person {
            parent: Some(parent),
            pid: pid(number),
            sid: by.sid,
            pgid: by.pgid,
            is_subreaper: false,
            is_dead: false,
            is_reaped: false,
        }
    }
}

impl History {
    /// Lives it: the tasks, without tables and steps, each with the parent that it has in the end, and
    /// where the root is born.
    pub fn live(&self) -> (Vec<TaskSpec>, Cradle) {
        let root = Person {
            parent: None,
            pid: pid(0),
            sid: CRADLE_SID,
            pgid: CRADLE_PGID,
            is_subreaper: true,
            is_dead: false,
            is_reaped: false,
        };
        let mut people = vec![root];
        if !self.has_cradle {
            set_sid(&mut people, 0);
        }
        for event in &self.events {
            let at = |who: u16| usize::from(who) % people.len();
            match *event {
                Event::Fork(who) => {
                    let by = match self.shape {
                        Shape::Deep if who % 8 != 7 => people.len() - 1,
                        Shape::Wide if who % 8 != 7 => 0,
                        Shape::Deep | Shape::Wide | Shape::Any => at(who),
                    };
                    if people.len() < MAX_TASKS && !people[by].is_dead {
                        people.push(Person::child_of(by, &people[by], people.len()));
                    }
                }
                Event::ForkSibling(who) => {
                    let by = &people[at(who)];
                    if let Some(parent) = by.parent.filter(|_| people.len() < MAX_TASKS && !by.is_dead) {
                        people.push(Person::child_of(parent, by, people.len()));
                    }
                }
                Event::Daemon(who, how) => {
                    let (who, between) = (at(who), people.len());
                    if people.len() + 3 > MAX_TASKS || people[who].is_dead {
                        continue;
                    }
                    people[who].is_subreaper |= how & 32 != 0;
                    people.push(Person::child_of(who, &people[who], between));
                    if how & 2 == 0 {
                        set_sid(&mut people, between);
                    }
                    people.push(Person::child_of(between, &people[between], between + 1));
                    let second_by = if how & 4 != 0 { between + 1 } else { between };
                    if second_by != between {
                        die(&mut people, between);
                    }
                    people.push(Person::child_of(second_by, &people[second_by], between + 2));
                    if how & 16 != 0 && may_leave_group(&people, between + 2) {
                        people[between + 2].pgid = people[between + 2].pid;
                    }
                    if how & 8 != 0 {
                        die(&mut people, between + 2);
                    }
                    die(&mut people, between);
                    people[between].is_reaped = how & 1 == 0;
                }
                Event::Orphans(who, how) => {
                    let who = at(who);
                    let mut above: Vec<usize> =
                        std::iter::successors(people[who].parent, |at| people[*at].parent).take(3).collect();
                    above.reverse();
                    if people.len() + 6 > MAX_TASKS || people[who].is_dead {
                        continue;
                    }
                    set_sid(&mut people, who);
                    for adopter in above {
                        people[adopter].is_subreaper = true;
                        let between = people.len();
                        people.push(Person::child_of(who, &people[who], between));
                        people.push(Person::child_of(between, &people[between], between + 1));
                        die(&mut people, between);
                        people[between].is_reaped = true;
                        if how & 4 != 0 {
                            die(&mut people, between + 1);
                        }
                    }
                    if how & 1 != 0 {
                        die(&mut people, who);
                        people[who].is_reaped = how & 2 != 0 && who != 0;
                    }
                }
                Event::Subreaper(who) => {
                    let who = at(who);
                    people[who].is_subreaper = true;
                }
                Event::SetSid(who) => {
                    let who = at(who);
                    set_sid(&mut people, who);
                }
                Event::Found(who) => {
                    let who = at(who);
                    if may_leave_group(&people, who) {
                        people[who].pgid = people[who].pid;
                    }
                }
                Event::Join(who, whom) => {
                    let (who, whom) = (at(who), at(whom));
                    let group = people[whom].pgid;
                    if may_leave_group(&people, who)
                        && people[whom].sid == people[who].sid
                        && group != CRADLE_PGID
                    {
                        people[who].pgid = group;
                    }
                }
                Event::Die(who) => {
                    let who = at(who);
                    die(&mut people, who);
                }
                Event::Reap(who) => {
                    let who = at(who);
                    die(&mut people, who);
                    people[who].is_reaped = who != 0;
                }
            }
        }
        let cradle = if self.has_cradle {
            Cradle { sid: Some(CRADLE_SID), pgid: Some(CRADLE_PGID) }
        } else {
            Cradle::default()
        };
        (self.number(&people), cradle)
    }

    /// The tasks in an order in which parents come before their children.
    fn number(&self, people: &[Person]) -> Vec<TaskSpec> {
        let key = |index: usize| (scramble(u64::from(self.renumber), index), index);
        let mut ready: Vec<usize> = vec![0];
        let mut id_of = vec![TaskId(0); people.len()];
        let mut tasks = Vec::with_capacity(people.len());
        while let Some(at) = (0..ready.len()).min_by_key(|at| key(ready[*at])) {
            let index = ready.swap_remove(at);
            let person = &people[index];
            id_of[index] = TaskId::new(tasks.len());
            tasks.push(TaskSpec {
                pid: person.pid,
                parent: person.parent.map(|parent| id_of[parent]),
                pgid: person.pgid,
                sid: person.sid,
                life: if person.is_dead { Life::Zombie } else { Life::Lives },
                ..TaskSpec::default()
            });
            let is_here = |child: &usize| people[*child].parent == Some(index) && !people[*child].is_reaped;
            ready.extend((0..people.len()).filter(is_here));
        }
        tasks
    }
}

/// A number that depends on both; `seed` 0 keeps the order of `index`.
pub fn scramble(seed: u64, index: usize) -> u64 {
    if seed == 0 {
        return index as u64;
    }
    let mut x =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 29;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 32)
}

/// Pids in no particular order.
fn pid(index: usize) -> u32 {
    100 + (index * 37 % 61) as u32
}

fn set_sid(people: &mut [Person], who: usize) {
    let pid = people[who].pid;
    if !people[who].is_dead && people.iter().all(|other| other.pgid != pid) {
        people[who].sid = pid;
        people[who].pgid = pid;
    }
}

/// A death leaves the children to the nearest subreaper above.
fn die(people: &mut [Person], who: usize) {
    if who == 0 || people[who].is_dead {
        return;
    }
    people[who].is_dead = true;
    let mut above = people[who].parent;
    while let Some(at) = above.filter(|at| !people[*at].is_subreaper || people[*at].is_dead) {
        above = people[at].parent;
    }
    for person in people.iter_mut().filter(|person| person.parent == Some(who)) {
        person.parent = above;
    }
}

fn may_leave_group(people: &[Person], who: usize) -> bool {
    let person = &people[who];
    let leads = person.sid == person.pid || person.pgid == person.pid;
    // Who has died in the meantime may have been another's child.
    let has_heirs = || people.iter().skip(who + 1).any(|other| other.pgid == CRADLE_PGID);
    !leads && !person.is_dead && (person.pgid != CRADLE_PGID || !has_heirs())
}
