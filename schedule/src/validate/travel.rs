//! What travels between stages: the output of a stage's last unit down, the gradient of its input up.
use super::meaning::State;
use crate::Action;
use model::Unit;
use plan::{Res, Stage};

impl State<'_> {
    pub(super) fn send(&self, what: Res, to: Stage) -> Result<(), String> {
        match what {
            Res::X(u, m) => {
                self.own(u)?;
                let stage = self.plan.stage_of(u);
                if u.0 + 1 != self.plan.units(stage).end || to.0 != stage.0 + 1 {
                    return Err(format!("stage {} hands only its last output to the next stage", stage.0));
                }
                if self.stays(stage, to) {
                    return Err("this rank has that stage itself".into());
                }
                self.need(Action::Forward { u, m })
            }
            Res::Dx(m) => {
                if !self.has(to.0 + 1) {
                    return Err("gradients go to the previous stage".into());
                }
                if self.stays(Stage(to.0 + 1), to) {
                    return Err("this rank has that stage itself".into());
                }
                if self.dx.get(&m) == Some(&Unit(self.plan.units(to).end - 1)) {
                    return Ok(());
                }
                Err(format!("micro-batch {} has not come back through all units of the stage", m.0))
            }
            _ => Err("only x and dx travel between stages".into()),
        }
    }

    pub(super) fn recv(&mut self, what: Res, from: Stage) -> Result<(), String> {
        match what {
            Res::X(u, m) => {
                self.known(m)?;
                if !self.has(from.0 + 1) || u.0 + 1 != self.plan.units(from).end {
                    let own: Vec<String> =
                        self.plan.mesh.stages_of(self.rank).map(|stage| stage.0.to_string()).collect();
                    return Err(format!("stage {} takes in only the output before its first unit", own.join(", ")));
                }
                Ok(())
            }
            Res::Dx(m) => {
                self.known(m)?;
                if from.0 == 0 || from.0 >= self.plan.mesh.stages() || !self.has(from.0 - 1) {
                    return Err("gradients come from the next stage".into());
                }
                self.dx.insert(m, Unit(self.plan.units(Stage(from.0 - 1)).end - 1));
                Ok(())
            }
            _ => Err("only x and dx travel between stages".into()),
        }
    }
}
