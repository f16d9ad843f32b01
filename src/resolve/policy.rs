//! Who makes what: by which rule a tree is planned.

use regrow_graph::passing::{self, Assignment};
use serde::{Deserialize, Serialize};

use super::Resolved;
use super::recipe::{ResourceKind, ResourceRecipe};

/// A rule by which a tree is planned. What is restored is the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The lowest common ancestor of those who use a resource makes it, and they inherit it. Where a task has many
    /// children, helpers fork them, and send it what it shares with one of them only.
    #[default]
    Inherit,
    /// As CRIU: whoever has the lowest pid makes it and sends it to the others, in stages.
    LowestPid,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 2] = [Policy::Inherit, Policy::LowestPid];

    /// Its name, as the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Inherit => "inherit",
            Policy::LowestPid => "lowest-pid",
        }
    }
}

/// Puts what the rule says into the forest.
pub fn apply(policy: Policy, resolved: &mut Resolved) {
    match policy {
        Policy::Inherit if resolved.deliveries.is_empty() => {}
        Policy::Inherit => {
            let deliveries = std::mem::take(&mut resolved.deliveries);
            assign(&Assignment { deliveries, ..Assignment::default() }, resolved);
        }
        Policy::LowestPid => {
            let assignment = passing::lowest_pid(&resolved.forest);
            assign(&assignment, resolved);
        }
    }
}

/// Puts an assignment into the forest, with the recipes of the channels that it takes. They come from no image entry of
/// their own, so from that of the root.
pub fn assign(assignment: &Assignment, resolved: &mut Resolved) {
    let channels = passing::arrange(&mut resolved.forest, assignment);
    resolved.needs = None;
    let Some(root) = resolved.recipes.tasks.first() else { return };
    let channel = ResourceRecipe { kind: ResourceKind::Channel, origin: root.origin };
    resolved.recipes.resources.extend(std::iter::repeat_n(channel, channels));
}
