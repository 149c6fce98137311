//! What launchers set, as they set it, and what is detected of it.
use comm::launch::{Kind, Launch, LaunchError, detect, expand};
use proptest::prelude::*;

/// Looks variables up in a line of `NAME=value` words.
fn look(line: &str) -> Result<Launch, LaunchError> {
    let words: Vec<(&str, &str)> = line.split_whitespace().map(|word| word.split_once('=').unwrap()).collect();
    detect(&|name| words.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
}

const TORCHRUN: &str = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=10.0.0.5 MASTER_PORT=1234 \
    TORCHELASTIC_RUN_ID=none TORCHELASTIC_USE_AGENT_STORE=True";
const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 \
    OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_NAMESPACE=1087569921 PMIX_RANK=1";
const MPICH: &str = "PMI_RANK=1 PMI_SIZE=2 PMI_FD=9 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2";
const SRUN: &str = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_STEP_NUM_TASKS=8 \
    SLURM_NTASKS=8 SLURM_STEP_TASKS_PER_NODE=4(x2) SLURM_NODEID=1 SLURM_STEP_NODELIST=gpu[07-08] SLURM_JOB_NODELIST=gpu[06-08]";

/// Kind, rank, world, local rank, whether on one host, and where to meet.
#[test]
fn launchers() {
    use Kind::*;
    let slurm_port = look(SRUN).unwrap().port;
    let mpi_port = look(OPEN_MPI).unwrap().port;
    for (vars, kind, numbers, one_host, address, port) in [
        ("", Alone, [0, 1, 0], Some(true), "127.0.0.1", 29500),
        ("RANK= WORLD_SIZE=", Alone, [0, 1, 0], Some(true), "127.0.0.1", 29500),
        ("RANK=0 WORLD_SIZE=1", Torchrun, [0, 1, 0], None, "127.0.0.1", 29500),
        // Its agent listens on MASTER_PORT.
        (TORCHRUN, Torchrun, [3, 4, 1], Some(false), "10.0.0.5", 1235),
        ("RANK=1 WORLD_SIZE=2 MASTER_PORT=99", Torchrun, [1, 2, 0], None, "127.0.0.1", 99),
        ("RANK=1 WORLD_SIZE=2 INTERNEVO_LAUNCHED_BY=4", Internevo, [1, 2, 0], None, "127.0.0.1", 29500),
        ("RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=vm", Torchrun, [1, 2, 0], Some(true), "127.0.0.1", 29500),
        ("RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=1 MASTER_ADDR=::1", Torchrun, [1, 2, 0], Some(false), "::1", 29500),
        (OPEN_MPI, OpenMpi, [1, 2, 1], Some(true), "127.0.0.1", mpi_port),
        (MPICH, Pmi, [1, 2, 1], Some(true), "127.0.0.1", 29500),
        (SRUN, Slurm, [5, 8, 1], Some(false), "gpu07", slurm_port),
        // As `srun --mpi=pmi2` sets them.
        (&format!("PMI_RANK=5 PMI_SIZE=8 PMI_JOBID=7.0 {SRUN}"), Pmi, [5, 8, 1], Some(false), "gpu07", slurm_port),
        (
            &SRUN.replace("=4(x2) SLURM_NODEID=1", "=8 SLURM_NODEID=0").replace("[07-08]", "07"),
            Slurm,
            [5, 8, 1],
            Some(true),
            "127.0.0.1",
            slurm_port,
        ),
        // An allocation, a batch script and the shell of salloc are no ranks.
        ("SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0", Alone, [0, 1, 0], Some(true), "127.0.0.1", 29500),
        ("SLURM_STEP_ID=4294967291 SLURM_PROCID=0 SLURM_NTASKS=4", Alone, [0, 1, 0], Some(true), "127.0.0.1", 29500),
        ("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 MASTER_PORT=7", Slurm, [0, 2, 0], None, "127.0.0.1", 7),
    ] {
        let launch = look(vars).unwrap_or_else(|error| panic!("{vars}: {error}"));
        assert_eq!((launch.kind, launch.one_host()), (kind, one_host), "{vars}");
        assert_eq!([launch.rank, launch.world, launch.local_rank], numbers, "{vars}");
        assert_eq!((launch.address.as_str(), launch.port), (address, port), "{vars}");
    }
}

#[test]
fn what_stands_inside_counts_before_what_stands_around() {
    let all = [SRUN, MPICH, OPEN_MPI, TORCHRUN];
    let kinds = [Kind::Slurm, Kind::Pmi, Kind::OpenMpi, Kind::Torchrun];
    for inside in 0..all.len() {
        assert_eq!(look(&all[..=inside].join(" ")).unwrap().kind, kinds[inside]);
    }
}

#[test]
fn mpi_in_an_allocation_meets_on_its_first_host() {
    let launch = look("PMI_RANK=1 PMI_SIZE=4 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2 SLURM_JOB_NODELIST=c[9-11]").unwrap();
    assert_eq!((launch.endpoint(), launch.local_rank), (Ok(("c9", 29500)), 1));
}

#[test]
fn jobs_on_one_host_have_their_ports() {
    let port = |vars: &str| look(vars).unwrap().port;
    let step = |id| port(&SRUN.replace("SLURM_STEP_ID=0", &format!("SLURM_STEP_ID={id}")));
    assert_ne!(step(0), step(1));
    assert_ne!(port(OPEN_MPI), port(&OPEN_MPI.replace("=1087569921", "=1087569922")));
    assert!((0..2000).map(step).all(|port| (10_000..30_000).contains(&port)));
}

#[test]
fn slurms_tasks_of_a_host() {
    let here = |list: &str, node: usize| {
        let vars = SRUN.replace("=4(x2) SLURM_NODEID=1", &format!("={list} SLURM_NODEID={node}"));
        look(&vars).map(|launch| launch.local_world.unwrap())
    };
    for (list, tasks) in [("8", vec![8]), ("2,1", vec![2, 1]), ("4(x2),3,1(x2)", vec![4, 4, 3, 1, 1])] {
        let got: Vec<usize> = (0..tasks.len()).map(|node| here(list, node).unwrap()).collect();
        assert_eq!(got, tasks, "{list}");
        assert_eq!(
            here(list, tasks.len()).unwrap_err().to_string(),
            format!(
                "SLURM_STEP_TASKS_PER_NODE = {list:?}: it is no list of tasks for host {}, as in 4(x2),3 for three hosts",
                tasks.len()
            )
        );
    }
    for list in ["x", "4(x", "4(x2", "4x2", "-1", "4(x2),"] {
        assert!(here(list, 3).is_err(), "{list}");
    }
}

#[test]
fn mistakes() {
    for (vars, message) in [
        ("RANK=1", "RANK is set and WORLD_SIZE is not: set both, or none for a single process"),
        ("WORLD_SIZE=2", "WORLD_SIZE is set and RANK is not: set both, or none for a single process"),
        ("RANK=1 WORLD_SIZE=", "RANK is set and WORLD_SIZE is not: set both, or none for a single process"),
        ("RANK=2 WORLD_SIZE=2", "RANK = 2 is not below WORLD_SIZE = 2"),
        ("RANK=0 WORLD_SIZE=0", "RANK = 0 is not below WORLD_SIZE = 0"),
        ("RANK=-1 WORLD_SIZE=2", "RANK = \"-1\" is not a whole number"),
        ("RANK=a WORLD_SIZE=2", "RANK = \"a\" is not a whole number"),
        ("RANK=0 WORLD_SIZE=2 MASTER_PORT=65536", "MASTER_PORT = \"65536\" is not a port (1 to 65535)"),
        ("MASTER_PORT=0", "MASTER_PORT = \"0\" is not a port (1 to 65535)"),
        (
            "RANK=0 WORLD_SIZE=2 MASTER_PORT=65535 TORCHELASTIC_USE_AGENT_STORE=True",
            "torchrun's own store listens on MASTER_PORT = 65535 and ranks meet one port above: choose a lower --master-port",
        ),
        (
            "OMPI_COMM_WORLD_RANK=1",
            "OMPI_COMM_WORLD_RANK is set and OMPI_COMM_WORLD_SIZE is not: set both, or none for a single process",
        ),
        (
            "PMI_RANK=0 PMI_SIZE=4 SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2",
            "started as rank 0 of 2 by srun (Slurm), but PMI says rank 0 of 4: start the program with the launcher that belongs to PMI",
        ),
        ("PMI_RANK=9 PMI_SIZE=4", "PMI_RANK = 9 is not below PMI_SIZE = 4"),
        ("SLURM_STEP_ID=0", "SLURM_STEP_ID is set and SLURM_PROCID is not: set both, or none for a single process"),
        (
            "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_NODELIST=a[1",
            "SLURM_STEP_NODELIST = \"a[1\": a bracket of `a[1` has no partner",
        ),
    ] {
        assert_eq!(look(vars).unwrap_err().to_string(), message, "{vars}");
    }
}

#[test]
fn several_hosts_do_not_meet_on_the_loopback() {
    let alone = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=2";
    assert_eq!(
        look(alone).unwrap().endpoint().unwrap_err().to_string(),
        "started as rank 1 of 4 by mpirun (Open MPI): its ranks are on several hosts and rank 0's is not known; set \
         MASTER_ADDR to the host of rank 0, for all ranks"
    );
    assert_eq!(look(&format!("{alone} MASTER_ADDR=node3")).unwrap().endpoint(), Ok(("node3", 29500)));
}

#[test]
fn an_engine_counts_as_the_launcher_does() {
    let launch = look(TORCHRUN).unwrap();
    assert_eq!(launch.agrees("MPI", 3, 4), Ok(()));
    assert_eq!(
        launch.agrees("MPI", 0, 1).unwrap_err().to_string(),
        "started as rank 3 of 4 by torchrun (RANK, WORLD_SIZE), but MPI says rank 0 of 1: start the program with the \
         launcher that belongs to MPI"
    );
}

// ---- lists of hosts ------------------------------------------------------------------------------------------------

#[test]
fn lists_of_hosts() {
    for (list, hosts) in [
        ("vm", "vm"),
        ("gpu[01-03,07],login,c[1-2]d[3-4]", "gpu01 gpu02 gpu03 gpu07 login c1d3 c1d4 c2d3 c2d4"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("n[9-11]x", "n9x n10x n11x"),
        ("a,b", "a b"),
    ] {
        assert_eq!(expand(list).unwrap().join(" "), hosts, "{list}");
    }
    for (list, message) in [
        ("", "the list has no host, or an empty one"),
        ("a,,b", "the list has no host, or an empty one"),
        ("a[1", "a bracket of `a[1` has no partner"),
        ("a1]", "a bracket of `a1]` has no partner"),
        ("a[[1]]", "a bracket of `a[[1]]` has no partner"),
        ("a[]", "`` is not a number or a range of numbers, as in [01-03,07]"),
        ("a[3-1]", "`3-1` is not a number or a range of numbers, as in [01-03,07]"),
        ("a[1-x]", "`1-x` is not a number or a range of numbers, as in [01-03,07]"),
        ("a[+1]", "`+1` is not a number or a range of numbers, as in [01-03,07]"),
        ("a[0-99999999999]", "more than 1048576 hosts"),
        ("a[0-9999][0-9999]", "more than 1048576 hosts"),
    ] {
        assert_eq!(expand(list).unwrap_err().to_string(), message, "{list}");
    }
}

/// First number, how many follow, and how wide the first is written.
type Range = (u64, u64, usize);

/// An entry: pieces of text, each followed by a bracket of ranges but the last.
#[derive(Clone, Debug)]
struct Entry {
    pieces: Vec<(String, Vec<Range>)>,
    tail: String,
}

impl Entry {
    fn written(&self) -> String {
        let range = |&(low, span, width): &Range| match span {
            0 => format!("{low:0width$}"),
            _ => format!("{low:0width$}-{:0width$}", low + span),
        };
        let bracket = |ranges: &[_]| ranges.iter().map(range).collect::<Vec<_>>().join(",");
        let pieces = self.pieces.iter().map(|(text, ranges)| format!("{text}[{}]", bracket(ranges)));
        pieces.collect::<String>() + &self.tail
    }

    /// All beginnings first, then what each piece adds to each: not as `expand` does it.
    fn naive(&self) -> Vec<String> {
        let mut hosts = vec![String::new()];
        for (text, ranges) in &self.pieces {
            let mut longer = vec![];
            for host in &hosts {
                for (low, span, width) in ranges {
                    let written = format!("{low:0width$}").len();
                    for number in *low..=low + span {
                        let mut digits = number.to_string();
                        while digits.len() < written {
                            digits.insert(0, '0');
                        }
                        longer.push(format!("{host}{text}{digits}"));
                    }
                }
            }
            hosts = longer;
        }
        hosts.into_iter().map(|host| host + &self.tail).collect()
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let range = (0_u64..1200, 0_u64..12, 1_usize..5);
    let piece = ("[a-z]{0,3}-?", prop::collection::vec(range, 1..4));
    let entry = (prop::collection::vec(piece, 0..3), "[a-z]{1,3}");
    prop::collection::vec(entry.prop_map(|(pieces, tail)| Entry { pieces, tail }), 1..4)
}

proptest! {
    #[test]
    fn lists_equal_a_naive_expansion(entries in entries()) {
        let list = entries.iter().map(Entry::written).collect::<Vec<_>>().join(",");
        prop_assert_eq!(expand(&list).unwrap(), entries.iter().flat_map(Entry::naive).collect::<Vec<_>>());
    }

    #[test]
    fn no_list_panics(list in r"[a-c0-9,\[\]-]{0,20}") {
        let _ = expand(&list);
    }

    #[test]
    fn no_variable_panics(values in prop::collection::vec(prop::option::of(".{0,6}|[0-9]{0,12}"), 8)) {
        const NAMES: [&str; 8] = [
            "RANK", "WORLD_SIZE", "MASTER_PORT", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "PMI_RANK",
            "SLURM_STEP_NODELIST",
        ];
        let _ = detect(&|name| values[NAMES.iter().position(|n| *n == name)?].clone());
    }
}
