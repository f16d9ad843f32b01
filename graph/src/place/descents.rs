//! Who becomes whose child by the death of whom.

use super::PlaceError;
use crate::forest::{Descent, Forest, Life};
use crate::ids::TaskId;

/// Parents, adopters and deaths of all tasks.
pub(super) struct Descents {
    /// The parent of each task in the end.
    pub(super) parents: Vec<Option<TaskId>>,
    /// How far each task is below the root then.
    pub(super) depth: Vec<u32>,
    /// Who gets the children of each task that dies.
    pub(super) adopter: Vec<Option<TaskId>>,
    /// Whether each task gets any.
    pub(super) adopts: Vec<bool>,
    /// The children of each task in the end, and helpers that it forks: those that die.
    pub(super) dying: Vec<Vec<TaskId>>,
    /// Whose death raises SIGCHLD.
    pub(super) raises_sigchld: Vec<bool>,
}

impl Descents {
    pub(super) fn find(forest: &Forest) -> Result<Descents, Vec<PlaceError>> {
        let count = forest.tasks.len();
        let mut descents = Descents {
            parents: forest.parents(),
            depth: vec![0; count],
            adopter: vec![None; count],
            adopts: vec![false; count],
            dying: vec![Vec::new(); count],
            raises_sigchld: forest.raises_sigchld(),
        };
        let mut errors = Vec::new();
        for (index, spec) in forest.tasks.iter().enumerate() {
            let Some(parent) = spec.parent else { continue };
            let forker = &forest.tasks[parent.index()];
            let dies = matches!(forker.life, Life::Zombie | Life::Helper);
            let (task, is_helper) = (TaskId::new(index), spec.life == Life::Helper);
            match spec.descent {
                Descent::Own if dies && !is_helper => errors.push(PlaceError::Unborn { task, parent }),
                Descent::Own => {}
                Descent::Sibling if forker.parent.is_none() || is_helper => {
                    errors.push(PlaceError::NoWay { task, parent });
                }
                Descent::Sibling => {}
                Descent::Adopted { by } => {
                    descents.adopts[by.index()] = true;
                    let is_other = *descents.adopter[parent.index()].get_or_insert(by) != by;
                    if is_other || !dies || is_helper || forest.tasks[by.index()].life != Life::Lives {
                        errors.push(PlaceError::NoWay { task, parent });
                    }
                }
            }
            if matches!(spec.life, Life::Zombie | Life::Helper)
                && let Some(parent) = descents.parents[index]
            {
                descents.dying[parent.index()].push(task);
            }
            let mut above = descents.parents[index];
            while let Some(task) = above.filter(|_| (descents.depth[index] as usize) < count) {
                descents.depth[index] += 1;
                above = descents.parents[task.index()];
            }
        }
        if errors.is_empty() { Ok(descents) } else { Err(errors) }
    }

    /// Where in the order of deaths that of a task stands: those come first that leave children to
    /// tasks near the root, because no task further below may take these. Deaths that leave nobody
    /// to others come before all.
    fn rank(&self, task: TaskId) -> u32 {
        self.adopter[task.index()].map_or(0, |adopter| self.depth[adopter.index()])
    }

    /// The place of the waiting for its death in the order of [`super::Placer::mourn`].
    pub(super) fn place(&self, forest: &Forest, task: TaskId) -> (u32, u8) {
        let mut place = (self.rank(task), 1);
        let mut at = task;
        while let Some(forker) = forest.tasks[at.index()].parent {
            let rank = match forest.tasks[at.index()].descent {
                Descent::Own => break,
                Descent::Adopted { by } => self.depth[by.index()],
                Descent::Sibling => self.rank(forker),
            };
            place = (place.0.max(rank), 2);
            match forest.tasks[at.index()].descent {
                Descent::Sibling => at = forker,
                Descent::Own | Descent::Adopted { .. } => break,
            }
        }
        place
    }

    pub(super) fn is_above(&self, above: TaskId, task: TaskId) -> bool {
        self.depth[above.index()] < self.depth[task.index()]
            && std::iter::successors(Some(task), |task| self.parents[task.index()])
                .take(self.parents.len())
                .any(|task| task == above)
    }
}
