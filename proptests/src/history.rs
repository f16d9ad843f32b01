//! Events of a tree's life into its tasks, sessions and process groups.
//!
//! What comes out is possible because it has happened: every event that Linux would refuse is
//! skipped. Two things that Linux allows are left out, because they cannot be planned: a group's
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
pub const MAX_TASKS: usize = 40;

/// One event. Tasks are chosen by number, modulo how many there are.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A task forks.
    Fork(u16),
    /// A task calls setsid(2).
    SetSid(u16),
    /// A task founds a group.
    Found(u16),
    /// The first joins the group of the second.
    Join(u16, u16),
    /// A childless task dies.
    Die(u16),
    /// A childless leader of a group dies and is reaped. If the group has other members, a helper
    /// has to found it.
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
    children: usize,
    is_dead: bool,
    is_reaped: bool,
}

impl History {
    /// Lives it: the tasks, without tables and steps, and where the root is born.
    pub fn live(&self) -> (Vec<TaskSpec>, Cradle) {
        let root = Person {
            parent: None,
            pid: pid(0),
            sid: CRADLE_SID,
            pgid: CRADLE_PGID,
            children: 0,
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
                        people[by].children += 1;
                        let Person { sid, pgid, .. } = people[by];
                        let pid = pid(people.len());
                        people.push(Person {
                            parent: Some(by),
                            pid,
                            sid,
                            pgid,
                            children: 0,
                            is_dead: false,
                            is_reaped: false,
                        });
                    }
                }
                Event::SetSid(who) => {
                    let who = at(who);
                    set_sid(&mut people, who);
                }
                Event::Found(who) => {
                    let who = at(who);
                    if may_leave_group(&people[who]) {
                        people[who].pgid = people[who].pid;
                    }
                }
                Event::Join(who, whom) => {
                    let (who, whom) = (at(who), at(whom));
                    let group = people[whom].pgid;
                    if may_leave_group(&people[who])
                        && people[whom].sid == people[who].sid
                        && group != CRADLE_PGID
                    {
                        people[who].pgid = group;
                    }
                }
                Event::Die(who) => {
                    let who = at(who);
                    people[who].is_dead |= who != 0 && people[who].children == 0;
                }
                Event::Reap(who) => {
                    // A leader of a session could not be stood in for.
                    let leads = |person: &Person| person.pgid == person.pid && person.sid != person.pid;
                    let able: Vec<usize> = (1..people.len())
                        .filter(|at| people[*at].children == 0 && leads(&people[*at]))
                        .collect();
                    if let Some(who) = able.get(usize::from(who) % able.len().max(1)) {
                        people[*who].is_dead = true;
                        people[*who].is_reaped = true;
                    }
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
            let leads_others = people
                .iter()
                .any(|other| other.pgid == person.pid && other.pid != person.pid && !other.is_reaped);
            if person.is_reaped && !leads_others {
                continue;
            }
            id_of[index] = TaskId::new(tasks.len());
            tasks.push(TaskSpec {
                pid: person.pid,
                parent: person.parent.map(|parent| id_of[parent]),
                pgid: person.pgid,
                sid: person.sid,
                life: match (person.is_dead, person.is_reaped) {
                    (_, true) => Life::Helper,
                    (true, false) => Life::Zombie,
                    (false, false) => Life::Lives,
                },
                ..TaskSpec::default()
            });
            ready.extend((0..people.len()).filter(|child| people[*child].parent == Some(index)));
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
    100 + (index * 37 % 41) as u32
}

fn set_sid(people: &mut [Person], who: usize) {
    let pid = people[who].pid;
    if !people[who].is_dead && people.iter().all(|other| other.pgid != pid) {
        people[who].sid = pid;
        people[who].pgid = pid;
    }
}

fn may_leave_group(person: &Person) -> bool {
    let leads = person.sid == person.pid || person.pgid == person.pid;
    !leads && !person.is_dead && (person.pgid != CRADLE_PGID || person.children == 0)
}
