//! Prints the orders of every pipeline policy over a grid: `POLICY PIPELINE CHUNKS MICROS`, then the passes of each rank, with
//! tabs in between. `cargo xtask schedules` compares them with PyTorch's.
use plan::{Mesh, PipelineSchedule};
use schedule::pipeline::{self, StageAction, zb_h1, zbv};

fn main() {
    for pipeline in 1..=8 {
        for micros in 1..=20 {
            for policy in [PipelineSchedule::GPipe, PipelineSchedule::OneFOneB] {
                let mesh = Mesh { pipeline, ..Mesh::SOLO };
                let name = if policy == PipelineSchedule::GPipe { "gpipe" } else { "1f1b" };
                print(name, pipeline, 1, micros, &|place| pipeline::order(policy, mesh, mesh.first(place), micros));
            }
            for chunks in 1..=4 {
                let mesh = Mesh { pipeline, chunks, ..Mesh::SOLO };
                let interleaved = PipelineSchedule::Interleaved;
                if chunks > 1 {
                    print("interleaved", pipeline, chunks, micros, &|place| {
                        pipeline::order(interleaved, mesh, mesh.first(place), micros)
                    });
                }
                print("zb-h1", pipeline, chunks, micros, &|place| zb_h1::order(place, pipeline, chunks, micros));
            }
            print("zbv", pipeline, 2, micros, &|place| zbv::order(place, pipeline, micros));
        }
    }
}

fn print(policy: &str, pipeline: usize, chunks: usize, micros: usize, order: &dyn Fn(usize) -> Vec<StageAction>) {
    let rank = |place| order(place).iter().map(StageAction::to_string).collect::<Vec<_>>().join(" ");
    let ranks: Vec<String> = (0..pipeline).map(rank).collect();
    println!("{policy} {pipeline} {chunks} {micros}\t{}", ranks.join("\t"));
}
