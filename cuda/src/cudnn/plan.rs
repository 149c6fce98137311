//! What cuDNN makes of a graph: an engine, chosen and compiled.

use super::descriptor::{Descriptor, Note, Raw, check};
use super::graph::{ALIGNMENT, Graph, Place};
use super::lower::operations;
use super::{Cudnn, Shape, Target, Tensors, Version, backward, forward};
use cudarc::cudnn::sys::{self, cudnnBackendKnobType_t as Knob};
use cudarc::cudnn::sys::{cudnnBackendAttributeName_t::*, cudnnBackendDescriptorType_t::*};
use std::ffi::c_void;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pass {
    Forward,
    Backward,
}

/// An attention that can be executed.
pub struct Plan {
    plan: Descriptor,
    /// The tensors of the graph that are in memory; their number plus one is what cuDNN calls them by.
    places: Vec<(i64, Place)>,
    /// Bytes of the workspace that the graph's own tensors have; the engine's are behind them.
    scratch: usize,
    /// Bytes.
    pub workspace: usize,
}

/// The graph of a pass, and the engine if cuDNN is not asked which.
struct Route {
    graph: Graph,
    engine: Option<Engine>,
}
struct Engine {
    index: i64,
    choices: Vec<(Knob, i64)>,
}

impl Plan {
    /// Refuses a plan whose workspace has more than `limit` bytes.
    pub fn forward(on: &Target, shape: Shape, limit: usize) -> Result<Plan, String> {
        Plan::new(on, Pass::Forward, shape, limit)
    }
    /// Refuses a plan whose workspace has more than `limit` bytes.
    pub fn backward(on: &Target, shape: Shape, limit: usize) -> Result<Plan, String> {
        Plan::new(on, Pass::Backward, shape, limit)
    }

    fn new(on: &Target, pass: Pass, shape: Shape, limit: usize) -> Result<Plan, String> {
        let Route { graph, engine } = route(on, pass, &shape)?;
        let on = On::new(on)?;
        let operations = operations(on.handle(), &graph)?;
        let configurations = match engine {
            Some(engine) => vec![engine.configuration(&on, &operations)?],
            None => heuristics(&on, &operations)?,
        };
        let mut refusals = vec![format!("of {} engines none was chosen", configurations.len())];
        for configuration in configurations {
            if shape.deterministic && is_nondeterministic(&configuration)? {
                refusals.push("an engine has another result every time".into());
                continue;
            }
            let plan = match on.plan(|plan| plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[configuration.raw()])) {
                Ok(plan) => Plan::of(plan, &graph)?,
                Err(why) => {
                    refusals.push(why);
                    continue;
                }
            };
            if plan.workspace <= limit {
                return Ok(plan);
            }
            refusals.push(format!("an engine wants {} bytes of workspace, and {limit} are allowed", plan.workspace));
        }
        refusals.dedup();
        Err(format!("cuDNN has no plan for {pass:?} of {shape:?}: {}", refusals.join("; ")))
    }

    /// The plan as text that [`Plan::restored`] reads, for the same version of cuDNN and the same card.
    pub fn json(&self) -> Result<String, String> {
        let count = self.plan.count::<u8>(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION)?;
        let mut text = vec![0; count];
        let count = self.plan.get(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, &mut text)?;
        text.truncate(count);
        while text.last() == Some(&0) {
            text.pop();
        }
        String::from_utf8(text).map_err(|_| "cuDNN's plan is no text".into())
    }
    pub fn restored(on: &Target, pass: Pass, shape: Shape, json: &str) -> Result<Plan, String> {
        let Route { graph, .. } = route(on, pass, &shape)?;
        let plan =
            On::new(on)?.plan(|plan| plan.set(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, json.as_bytes()))?;
        Plan::of(plan, &graph)
    }

    fn of(plan: Descriptor, graph: &Graph) -> Result<Plan, String> {
        let mut own = [0i64];
        plan.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, &mut own)?;
        let own = usize::try_from(own[0]).map_err(|_| format!("cuDNN says a workspace of {} bytes", own[0]))?;
        let in_memory = |&(_, place): &(i64, Place)| place != Place::Virtual;
        let places = (1..).zip(graph.tensors.iter().map(|tensor| tensor.place)).filter(in_memory).collect();
        let scratch = graph.scratch();
        Ok(Plan { plan, places, scratch, workspace: scratch + own })
    }

    /// Launches the plan in the stream of `cudnn`. `workspace` is the address of so many bytes as the plan says, at a
    /// multiple of 256; what is in them before does not matter.
    ///
    /// # Safety
    /// The addresses are of tensors as the plan's shape says, which nobody else touches until the stream is there.
    pub unsafe fn execute(&self, cudnn: &Cudnn, tensors: &Tensors, workspace: u64) -> Result<(), String> {
        assert!(workspace.is_multiple_of(ALIGNMENT as u64), "the workspace is at {workspace:#x}");
        let mut constants: Vec<f32> = Vec::with_capacity(self.places.len());
        let (mut names, mut addresses) = (vec![], vec![]);
        let mut scratch = workspace;
        for &(name, place) in &self.places {
            let address = match place {
                Place::Given(role) => tensors.of(role),
                Place::Scratch(bytes) => {
                    let address = scratch;
                    scratch += bytes.next_multiple_of(ALIGNMENT) as u64;
                    address
                }
                Place::Constant(value) => {
                    constants.push(value);
                    &raw const constants[constants.len() - 1] as u64
                }
                Place::Virtual => unreachable!("only tensors in memory have places"),
            };
            assert!(address != 0 && address.is_multiple_of(4), "{place:?} is at {address:#x}");
            names.push(name);
            addresses.push(address as *mut c_void);
        }
        let mut pack = Descriptor::new(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &names)?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &addresses)?;
        pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[(workspace + self.scratch as u64) as *mut c_void])?;
        let pack = pack.finalised()?;
        let (Raw(plan), Raw(pack)) = (self.plan.raw(), pack.raw());
        // SAFETY: the plan was made for this handle's card, constants live until the launch is done, and the caller
        // promises the rest.
        check(unsafe { sys::cudnnBackendExecute(cudnn.handle, plan, pack) }, || "execute a plan".into())
    }
}

/// Which graph, and which engine of it.
fn route(on: &Target, pass: Pass, shape: &Shape) -> Result<Route, String> {
    let (version, arch) = (on.version()?, on.arch()?);
    shape.check(pass, version, arch)?;
    if pass == Pass::Forward {
        return Ok(Route { graph: forward::forward(shape), engine: None });
    }
    let graph = |sum| backward::backward(shape, sum);
    if !shape.deterministic {
        return Ok(Route { graph: graph(backward::Sum::Added), engine: None });
    }
    match (arch / 10, version) {
        // Hopper's engine can add to dq in a fixed order, in tiles of 64 by 64; no heuristic chooses that.
        (9, 92_500..) => {
            let choices = vec![
                (Knob::CUDNN_KNOB_TYPE_TILE_M, 2),
                (Knob::CUDNN_KNOB_TYPE_TILE_N, 1),
                (Knob::CUDNN_KNOB_TYPE_KERNEL_CFG, 2),
                (Knob::CUDNN_KNOB_TYPE_STREAM_K, 0),
                (Knob::CUDNN_KNOB_TYPE_TILE_CGA_M, 0),
                (Knob::CUDNN_KNOB_TYPE_STAGES, 4),
            ];
            Ok(Route { graph: graph(backward::Sum::Added), engine: Some(Engine { index: 6, choices }) })
        }
        (9, _) => Ok(Route { graph: graph(backward::Sum::Kept), engine: None }),
        _ => Err(format!("cuDNN {} has a deterministic backward on Hopper only", Version(version))),
    }
}

/// A target as descriptors have it.
enum On {
    Card(sys::cudnnHandle_t),
    Properties(Descriptor),
}
impl On {
    fn new(target: &Target) -> Result<On, String> {
        match target {
            Target::Card(cudnn) => Ok(On::Card(cudnn.handle)),
            Target::Properties(json) => {
                let mut properties = Descriptor::new(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?;
                properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, json.as_bytes())?;
                Ok(On::Properties(properties.finalised()?))
            }
        }
    }
    fn handle(&self) -> Option<sys::cudnnHandle_t> {
        match self {
            On::Card(handle) => Some(*handle),
            On::Properties(_) => None,
        }
    }
    fn plan(&self, from: impl FnOnce(&mut Descriptor) -> Result<(), String>) -> Result<Descriptor, String> {
        let mut plan = Descriptor::new(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        match self {
            On::Card(handle) => plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[*handle])?,
            On::Properties(properties) => plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[properties.raw()])?,
        }
        from(&mut plan)?;
        plan.finalised()
    }
}

/// Engines that can compute the graph, the best first.
fn heuristics(on: &On, operations: &Descriptor) -> Result<Vec<Descriptor>, String> {
    let mut d = Descriptor::new(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    d.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[operations.raw()])?;
    d.set(CUDNN_ATTR_ENGINEHEUR_MODE, &[sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A])?;
    if let On::Properties(properties) = on {
        d.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[properties.raw()])?;
    }
    let d = d.finalised()?;
    let count = d.count::<Raw>(CUDNN_ATTR_ENGINEHEUR_RESULTS)?;
    d.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count)
}

impl Engine {
    fn configuration(&self, on: &On, operations: &Descriptor) -> Result<Descriptor, String> {
        let mut engine = Descriptor::new(CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[operations.raw()])?;
        engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &[self.index])?;
        if let On::Properties(properties) = on {
            engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, &[properties.raw()])?;
        }
        let engine = engine.finalised()?;
        let choices = self.choices.iter().map(|&(knob, value)| {
            let mut d = Descriptor::new(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR)?;
            d.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, &[knob])?;
            d.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, &[value])?;
            d.finalised()
        });
        let choices = choices.collect::<Result<Vec<_>, String>>()?;
        let raws: Vec<Raw> = choices.iter().map(Descriptor::raw).collect();
        let mut d = Descriptor::new(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?;
        d.set(CUDNN_ATTR_ENGINECFG_ENGINE, &[engine.raw()])?;
        d.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, &raws)?;
        d.finalised()
    }
}

/// Whether the engine says that its results differ from one execution to the next.
fn is_nondeterministic(configuration: &Descriptor) -> Result<bool, String> {
    let engines = configuration.get_descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let mut notes = [Note(0); 16];
    let count = engines[0].get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, &mut notes)?;
    let nondeterministic = sys::cudnnBackendNumericalNote_t::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32;
    Ok(notes[..count].contains(&Note(nondeterministic)))
}
