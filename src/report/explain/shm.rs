//! The story of a segment of shared memory.

use std::collections::BTreeSet;

use regrow_graph::graph::OpKind;
use regrow_graph::ids::{OpId, ResourceId};

use super::{ExplainError, Explainer, ShmStory, View};
use crate::image::VmaKind;
use crate::image::huge::page_bytes;
use crate::resolve::numbers::PAGE;
use crate::resolve::recipe::{ResourceKind, StepKind};

impl Explainer<'_> {
    pub(super) fn shared_memory(&self, id: u64) -> Result<ShmStory, ExplainError> {
        let prepared = self.prepared;
        let vmas = || {
            let tasks = prepared.model.tasks.iter();
            tasks.flat_map(|task| {
                let vmas = task.alive().map(|alive| alive.mm.vmas.as_slice()).unwrap_or_default();
                vmas.iter().filter_map(move |vma| match vma.kind {
                    VmaKind::AnonShared { shmid, offset_bytes } => Some((task, vma, shmid, offset_bytes)),
                    VmaKind::SysV { shmid, offset_bytes, .. } => {
                        Some((task, vma, u64::from(shmid), offset_bytes))
                    }
                    _ => None,
                })
            })
        };
        // A carrier comes from the first mapping of its segment.
        let first = vmas().find(|(_, _, shmid, _)| *shmid == id).map(|(_, vma, _, _)| vma.origin);
        let carrier = prepared.resolved.recipes.resources.iter().enumerate().find_map(|(index, recipe)| {
            match &recipe.kind {
                ResourceKind::Carrier { address, len, .. } if Some(recipe.origin) == first => {
                    Some((ResourceId::new(index), vec![*address], *len))
                }
                // All segments of a namespace are made in one go.
                ResourceKind::Ipc(ipc) => {
                    let segment = ipc.segments.iter().find(|segment| u64::from(segment.object.id) == id)?;
                    let attached: Vec<u64> = segment.attached.iter().map(|(address, _)| *address).collect();
                    let page = page_bytes(segment.huge).unwrap_or(PAGE);
                    let len = segment.size_bytes.next_multiple_of(page);
                    (!attached.is_empty()).then_some((ResourceId::new(index), attached, len))
                }
                _ => None,
            }
        });
        let known = carrier.and_then(|(resource, carriers, len)| {
            Some((resource, *carriers.first()?, len, self.making(resource)?, carriers))
        });
        let Some((resource, address, len, making, carriers)) = known else {
            let ids: BTreeSet<u64> = vmas().map(|(_, _, shmid, _)| shmid).collect();
            let ids: Vec<String> = ids.iter().take(20).map(|id| format!("{id:#x}")).collect();
            let there = if ids.is_empty() {
                "there is none".to_owned()
            } else {
                format!("there are {}", ids.join(", "))
            };
            return Err(ExplainError::NoShm { id, there });
        };
        let recipes = &prepared.resolved.recipes;
        let graph = &prepared.plan.graph;
        let finish: BTreeSet<_> =
            prepared.resolved.forest.resources[resource.index()].finish.iter().copied().collect();
        let forest = &prepared.resolved.forest;
        let opened = recipes.resources.iter().zip(&forest.resources).find_map(|(recipe, spec)| {
            let is_its =
                matches!(recipe.kind, ResourceKind::OpenedCarrier { address: at, .. } if at == address);
            is_its.then(|| spec.yields.iter().flatten().next().copied()).flatten()
        });
        let (mut fills, mut views) = (Vec::new(), Vec::new());
        for op in &prepared.plan.order {
            let node = graph.op(*op);
            let OpKind::Step { step, .. } = &node.kind else { continue };
            if finish.contains(step) {
                fills.push(self.act(*op));
            }
            let needs_it = || forest.steps[step.index()].needs.iter().any(|ofd| Some(*ofd) == opened);
            let view = match recipes.steps[step.index()].kind {
                StepKind::MapShared { from, start, len: view_len } => {
                    let carrier =
                        carriers.iter().find(|carrier| (**carrier..**carrier + len).contains(&from));
                    carrier.map(|carrier| (from - carrier, start, view_len))
                }
                StepKind::Mmap { start, len: view_len, file_offset: Some(offset), .. } if needs_it() => {
                    Some((offset, start, view_len))
                }
                StepKind::AttachHuge(view) if u64::from(view.id) == id => {
                    Some((view.offset, view.start, view.len))
                }
                _ => None,
            };
            if let Some((offset_bytes, start, len_bytes)) = view {
                views.push(View {
                    pid: self.pid(node.task),
                    start,
                    len_bytes,
                    offset_bytes,
                    act: self.act(*op),
                });
            }
        }
        let mut ops: BTreeSet<OpId> =
            fills.iter().chain(views.iter().map(|view| &view.act)).map(|act| act.op).collect();
        ops.extend(making.made.as_ref().map(|act| act.op));
        let (waits_for, awaited_by) = self.meetings(&ops);
        let users: BTreeSet<u32> = views.iter().map(|view| view.pid).collect();
        Ok(ShmStory {
            id,
            carried_at: address,
            len_bytes: len,
            passed_through: self.born_behind(&making, &users),
            cost_ns: ops.iter().fold(0, |sum: u64, op| sum.saturating_add(self.priced.op_ns(*op))),
            making,
            fills,
            views,
            waits_for,
            awaited_by,
        })
    }
}
