//! Where tests let launcher and coordinator fail, or die: the steps that are on no tape.
//!
//! A step has a name; with `restore --inject-fault STEP@N:WHAT` its Nth turn (from 0) returns an error or is the
//! coordinator's last. Without it, a step costs a comparison.

use std::cell::Cell;
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{getpid, getppid};

/// What is done outside of the tapes, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The region is made.
    Memfd,
    /// The launcher keeps what it needs to take names away.
    Keep,
    /// The launcher makes a cgroup, where it is missing.
    Cgroups,
    /// The launcher makes a time namespace, where the images need one.
    Clocks,
    /// The launcher maps the region.
    Map,
    /// The launcher clones the root.
    Clone,
    /// A thread is seized.
    Seize,
    /// A thread is asked to stop.
    Interrupt,
    /// A thread is waited for.
    Await,
    /// A task is made to leave the window.
    Unmap,
    /// A thread is given its registers.
    Registers,
    /// A task is stopped as it was.
    Stop,
    /// The pidfile is written.
    Pidfile,
    /// The launcher is told.
    Tell,
    /// A thread no longer dies with us.
    Spare,
    /// A thread is let go.
    Detach,
}

impl Step {
    /// All of them, with their names on the command line.
    pub const ALL: [(&'static str, Step); 16] = [
        ("memfd", Step::Memfd),
        ("keep", Step::Keep),
        ("cgroups", Step::Cgroups),
        ("clocks", Step::Clocks),
        ("map", Step::Map),
        ("clone", Step::Clone),
        ("seize", Step::Seize),
        ("interrupt", Step::Interrupt),
        ("await", Step::Await),
        ("unmap", Step::Unmap),
        ("registers", Step::Registers),
        ("stop", Step::Stop),
        ("pidfile", Step::Pidfile),
        ("tell", Step::Tell),
        ("spare", Step::Spare),
        ("detach", Step::Detach),
    ];
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The step fails.
    Fail(Errno),
    /// The coordinator is killed (SIGKILL).
    Kill,
    /// The launcher is killed.
    KillLauncher,
    /// Launcher and coordinator are killed, one right after the other.
    KillBoth,
}

/// One step's turn and what happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepFault {
    /// The step.
    pub step: Step,
    /// Which turn of it, from 0.
    pub turn: u32,
    /// What happens.
    pub act: Act,
}

impl FromStr for StepFault {
    type Err = String;

    /// `STEP:WHAT` or `STEP@TURN:WHAT`; WHAT is an errno's number, `kill`, `kill-launcher` or `kill-both`.
    fn from_str(text: &str) -> Result<StepFault, String> {
        let (place, what) = text.split_once(':').ok_or("expected STEP@N:WHAT")?;
        let (name, turn) = place.split_once('@').unwrap_or((place, "0"));
        let step = Step::ALL.iter().find(|(known, _)| *known == name).map(|(_, step)| *step);
        let act = match what {
            "kill" => Some(Act::Kill),
            "kill-launcher" => Some(Act::KillLauncher),
            "kill-both" => Some(Act::KillBoth),
            number => match number.parse() {
                Ok(errno @ 1..=4095) => Some(Act::Fail(Errno::from_raw(errno))),
                Ok(_) | Err(_) => None,
            },
        };
        match (step, turn.parse(), act) {
            (Some(step), Ok(turn), Some(act)) => Ok(StepFault { step, turn, act }),
            _ => Err(format!("{text}: no such step, turn or act")),
        }
    }
}

/// Passed along the steps of a run.
#[derive(Debug, Default)]
pub struct Seam {
    fault: Option<StepFault>,
    turns: Cell<u32>,
}

impl Seam {
    /// A seam at which this happens, if anything.
    pub fn new(fault: Option<StepFault>) -> Seam {
        Seam { fault, turns: Cell::new(0) }
    }

    /// A step is about to be taken.
    ///
    /// # Errors
    /// The one that was asked for.
    pub fn at(&self, step: Step) -> Result<(), Errno> {
        let Some(fault) = self.fault.filter(|fault| fault.step == step) else { return Ok(()) };
        let turn = self.turns.get();
        self.turns.set(turn + 1);
        if turn != fault.turn {
            return Ok(());
        }
        match fault.act {
            Act::Fail(errno) => return Err(errno),
            Act::Kill => drop(kill(getpid(), Signal::SIGKILL)),
            Act::KillLauncher => drop(kill(getppid(), Signal::SIGKILL)),
            Act::KillBoth => {
                let _ = kill(getppid(), Signal::SIGKILL);
                let _ = kill(getpid(), Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// What a step of the launcher is to fail with: it is told, in numbers, with the order to start.
    pub fn for_launcher(&self) -> u64 {
        match self.fault {
            Some(StepFault { step, turn, act: Act::Fail(errno) }) => {
                let index = Step::ALL.iter().position(|(_, known)| *known == step).unwrap_or_default();
                u64::from(turn & 0xffff) << 48 | (index as u64) << 32 | errno as u64
            }
            _ => 0,
        }
    }

    /// The launcher's seam, of what [`Seam::for_launcher`] gave.
    pub fn of_launcher(word: u64) -> Seam {
        let fault = (word != 0).then(|| StepFault {
            step: Step::ALL[(word >> 32 & 0xffff) as usize % Step::ALL.len()].1,
            turn: (word >> 48) as u32,
            act: Act::Fail(Errno::from_raw(word as u32 as i32)),
        });
        Seam::new(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling() {
        let parse = |text: &str| text.parse::<StepFault>().ok();
        let fault = |step, turn, act| Some(StepFault { step, turn, act });
        assert_eq!(parse("map:12"), fault(Step::Map, 0, Act::Fail(Errno::ENOMEM)));
        assert_eq!(parse("spare@3:kill-both"), fault(Step::Spare, 3, Act::KillBoth));
        for wrong in ["map", "map:0", "map:x", "map@:1", "mmap:1", "map@-1:1", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn one_turn_fails() {
        let seam = Seam::new("seize@1:1".parse().ok());
        assert_eq!(seam.at(Step::Seize), Ok(()));
        assert_eq!(seam.at(Step::Detach), Ok(()));
        assert_eq!(seam.at(Step::Seize), Err(Errno::EPERM));
        assert_eq!(seam.at(Step::Seize), Ok(()));
        let told = Seam::of_launcher(Seam::new("map:12".parse().ok()).for_launcher());
        assert_eq!(told.at(Step::Clone), Ok(()));
        assert_eq!(told.at(Step::Map), Err(Errno::ENOMEM));
        let told = Seam::of_launcher(Seam::new("cgroups@1:13".parse().ok()).for_launcher());
        assert_eq!(told.at(Step::Cgroups), Ok(()));
        assert_eq!(told.at(Step::Cgroups), Err(Errno::EACCES));
        assert_eq!(Seam::of_launcher(0).at(Step::Map), Ok(()));
    }
}
