//! Streams, events, memory and what goes wrong.
mod common;
use common::{Arg, Card, Handle, call, card, in_process, is_alone};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const INVALID_CONTEXT: c_int = 201;
const INVALID_HANDLE: c_int = 400;
const NOT_READY: c_int = 600;
const ILLEGAL_ADDRESS: c_int = 700;
const MISALIGNED_ADDRESS: c_int = 716;

const ADD: &str = "
    #include \"test.cuh\"
    KERNEL add(u32 *x, u32 by) { x[threadIdx.x] += by; }
    ENTRY(add)
    KERNEL scale(u32 *x, u32 by) { x[threadIdx.x] *= by; }
    ENTRY(scale)";

fn record(card: &Card, event: Handle, stream: Handle) {
    assert_eq!(call!(card.cuda, cuEventRecord(event => Handle, stream => Handle)), 0);
}

fn wait(card: &Card, stream: Handle, event: Handle) {
    assert_eq!(call!(card.cuda, cuStreamWaitEvent(stream => Handle, event => Handle, 0 => u32)), 0);
}

fn query(card: &Card, event: Handle) -> c_int {
    call!(card.cuda, cuEventQuery(event => Handle))
}

/// Sleeps on a stream until the flag is set.
extern "C" fn until_set(flag: *mut c_void) {
    // SAFETY: the flag is a static.
    let flag = unsafe { &*flag.cast::<AtomicU32>() };
    while flag.load(Ordering::Acquire) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn hold(card: &Card, stream: Handle, flag: &'static AtomicU32) {
    let data: *const AtomicU32 = flag;
    let held = call!(card.cuda, cuLaunchHostFunc(
        stream => Handle, until_set => extern "C" fn(*mut c_void), data as _ => *mut c_void
    ));
    assert_eq!(held, 0);
}

/// (((x + 1) * 3 + 1) * 3 ...) where sums run on one stream and products on the other. Whether it comes out right.
fn ping_pong(with_waits: bool) -> bool {
    let card = card().unwrap();
    let (add, scale) = (card.kernel(ADD, "add"), card.kernel(ADD, "scale"));
    let (a, b, event) = (card.stream(), card.stream(), card.event());
    let x = card.upload(&[0u32; 64]);
    assert_eq!(card.synchronize(), 0);
    for _ in 0..8 {
        for (kernel, from, to, by) in [(add, a, b, 1), (scale, b, a, 3)] {
            assert_eq!(card.launch(kernel, 1, 64, 0, from, &[Arg::At(x), Arg::U32(by)]), 0);
            record(card, event, from);
            if with_waits {
                wait(card, to, event);
            }
        }
    }
    assert_eq!(card.synchronize(), 0);
    card.download::<u32>(x, 64) == [(0..8).fold(0, |x, _| (x + 1) * 3); 64]
}

#[test]
fn alone_with_waits() {
    assert!(!is_alone() || ping_pong(true));
}

#[test]
fn alone_without_waits() {
    assert!(!is_alone() || ping_pong(false));
}

#[test]
fn a_missing_wait_shows() {
    if card().is_none() {
        return;
    }
    for seed in ["1", "2", "3"] {
        let environment = [("CUDA_EMULATOR_DELAYS", seed)];
        assert!(in_process("alone_with_waits", &environment).0);
        assert!(!in_process("alone_without_waits", &environment).0);
    }
}

#[test]
fn events_are_points_of_a_stream() {
    static FLAG: AtomicU32 = AtomicU32::new(0);
    let Some(card) = card() else { return };
    let (a, b) = (card.stream(), card.stream());
    let (first, second, never) = (card.event(), card.event(), card.event());
    assert_eq!(query(card, never), 0, "what was never recorded is complete");
    wait(card, b, never);
    hold(card, a, &FLAG);
    record(card, first, a);
    assert_eq!(query(card, first), NOT_READY);
    assert_eq!(call!(card.cuda, cuStreamQuery(a => Handle)), NOT_READY);
    // Waits for the record so far, not for those to come.
    record(card, second, b);
    wait(card, b, second);
    record(card, second, a);
    assert_eq!(call!(card.cuda, cuStreamSynchronize(b => Handle)), 0);
    assert_eq!(query(card, second), NOT_READY);
    let mut time = 0f32;
    let mut elapsed =
        |from, to| call!(card.cuda, cuEventElapsedTime(&mut time => *mut f32, from => Handle, to => Handle));
    assert_eq!(elapsed(first, second), NOT_READY);
    assert_eq!(elapsed(first, never), INVALID_HANDLE);
    FLAG.store(1, Ordering::Release);
    assert_eq!(call!(card.cuda, cuEventSynchronize(second => Handle)), 0);
    assert_eq!(elapsed(first, second), 0);
    assert!((0.0..1000.0).contains(&time));
    assert_eq!(call!(card.cuda, cuStreamDestroy_v2(b => Handle)), 0);
    assert_eq!(call!(card.cuda, cuStreamSynchronize(b => Handle)), INVALID_HANDLE);
}

/// Pageable memory is read at the call, pinned memory when the stream gets there.
#[test]
fn copies_read_the_host_as_a_card_does() {
    static FLAG: AtomicU32 = AtomicU32::new(0);
    let Some(card) = card() else { return };
    let (stream, to) = (card.stream(), card.alloc(8));
    let mut pinned: *mut u32 = null_mut();
    let mut pageable = 1u32;
    assert_eq!(call!(card.cuda, cuMemHostAlloc(&mut pinned => *mut *mut u32, 4 => usize, 0 => u32)), 0);
    // SAFETY: four bytes that were allocated.
    unsafe { pinned.write(1) };
    hold(card, stream, &FLAG);
    for (at, from) in [(to, &raw const pageable), (to + 4, pinned.cast_const())] {
        let copied = call!(card.cuda, cuMemcpyHtoDAsync_v2(
            at => u64, from => *const u32, 4 => usize, stream => Handle
        ));
        assert_eq!(copied, 0);
    }
    pageable += 1;
    // SAFETY: as above; the stream is held, so nothing reads meanwhile.
    unsafe { pinned.write(2) };
    FLAG.store(1, Ordering::Release);
    assert_eq!(call!(card.cuda, cuStreamSynchronize(stream => Handle)), 0);
    assert_eq!(card.download::<u32>(to, 2), [1, pageable]);
    assert_eq!(call!(card.cuda, cuMemFreeHost(pinned => *mut u32)), 0);
}

#[test]
fn memory_is_bounded_and_fresh() {
    let Some(card) = card() else { return };
    let at = card.alloc(1000);
    assert!(at.is_multiple_of(256));
    assert!(card.download::<f32>(at, 250).iter().all(|x| x.is_nan()), "what was never written is NaN");
    let stream = card.stream();
    let set = |at, count| call!(card.cuda, cuMemsetD32Async(at => u64, 7 => u32, count => usize, stream => Handle));
    assert_eq!(set(at, 250), 0);
    assert_eq!(set(at, 251), INVALID_VALUE);
    assert_eq!(set(at - 4, 1), INVALID_VALUE);
    assert_eq!(call!(card.cuda, cuStreamSynchronize(stream => Handle)), 0);
    assert_eq!(card.download::<u32>(at, 250), [7; 250]);
    assert_eq!(call!(card.cuda, cuMemFree_v2(at => u64)), 0);
    assert_eq!(set(at, 1), INVALID_VALUE);
    let mut large = 0;
    assert_eq!(call!(card.cuda, cuMemAlloc_v2(&mut large => *mut u64, 5 << 30 => usize)), OUT_OF_MEMORY);
    // A thread that has made no context its own.
    std::thread::spawn(|| assert_eq!(call!(card.cuda, cuMemFree_v2(0 => u64)), INVALID_CONTEXT)).join().unwrap();
}

#[test]
fn a_wrong_program_is_told() {
    let Some(card) = card() else { return };
    let log = card.compile("#include \"test.cuh\"\nKERNEL wrong() { nothing(); }\nENTRY(wrong)", &[]).unwrap_err();
    assert!(log.contains("test.cu") && log.contains("nothing"), "{log}");
    let wanted = "#if X != 3 || __CUDA_ARCH__ != 900\n#error no\n#endif";
    assert!(card.compile(wanted, &["-DX=3", "--gpu-architecture=sm_90", "-lineinfo"]).is_ok());
    let mut module = null_mut();
    let loaded = call!(card.cuda, cuModuleLoadData(&mut module => *mut Handle, c".version 9".as_ptr() => *const i8));
    assert_eq!(loaded, 200);
}

/// Kernels that a card would hang in, or fault.
fn bad(body: &str, block: u32) {
    if !is_alone() {
        return;
    }
    let card = card().unwrap();
    let source = format!("#include \"test.cuh\"\nKERNEL bad(u32 *x) {{ u32 t = threadIdx.x; {body} }}\nENTRY(bad)");
    let kernel = card.kernel(&source, "bad");
    let x = card.alloc(4096);
    assert_eq!(card.launch(kernel, 2, block, 0, null_mut(), &[Arg::At(x)]), 0);
    let error = card.synchronize();
    // The error stays.
    let mut free = [0usize; 2];
    let [first, second] = &mut free;
    assert_eq!(call!(card.cuda, cuMemGetInfo_v2(first => *mut usize, second => *mut usize)), error);
    eprintln!("error {error}");
}

#[test]
fn alone_barriers_differ() {
    bad("if (t < 32) {\n__syncthreads();\n} else {\n__syncthreads();\n}", 64);
}
#[test]
fn alone_barrier_or_shuffle() {
    bad("if (t < 16) __syncthreads(); else x[t] = __shfl_xor_sync(0xffffffffu, t, 1);", 32);
}
#[test]
fn alone_lane_left() {
    bad("if (t == 3) return; x[t] = __shfl_xor_sync(0xffffffffu, t, 1);", 32);
}
#[test]
fn alone_masks_differ() {
    bad("x[t] = t < 16 ? __shfl_sync(0xffffu, t, 1) : __shfl_sync(0xffffffffu, t, 1);", 32);
}
#[test]
fn alone_out_of_bounds() {
    bad("if (t == 5 && blockIdx.x == 1) x[4096 + t] = 1;", 32);
}
#[test]
fn alone_deep() {
    bad("volatile u32 much[65536]; much[t] = t; x[t] = much[t + 1];", 32);
}
#[test]
fn alone_not_aligned() {
    bad("uint2 *pair = (uint2 *)(x + 1 + t); x[t] = pair->x;", 32);
}
#[test]
fn alone_exits_count() {
    bad("if (t < 40) return; __syncthreads(); x[t] = 1;", 64);
}

#[test]
fn what_cannot_go_on_is_told() {
    if card().is_none() {
        return;
    }
    let aborts = [
        ("alone_barriers_differ", "while others wait at"),
        ("alone_barrier_or_shuffle", "not all of the block reach"),
        ("alone_lane_left", "waits for lanes 0x8 of its warp"),
        ("alone_masks_differ", "waits for lanes"),
    ];
    for (test, told) in aborts {
        let (ended, text) = in_process(test, &[]);
        assert!(!ended && text.contains("kernel bad") && text.contains(told), "{test}: {text}");
    }
    let faults = [
        ("alone_out_of_bounds", "block (1, 0, 0), thread (5, 0, 0): an access that is not allowed", ILLEGAL_ADDRESS),
        ("alone_deep", "more stack than a thread has", ILLEGAL_ADDRESS),
        ("alone_not_aligned", "an address that is not aligned", MISALIGNED_ADDRESS),
    ];
    for (test, told, error) in faults {
        let (ended, text) = in_process(test, &[]);
        assert!(ended && text.contains("kernel bad") && text.contains(told), "{test}: {text}");
        assert!(text.contains(&format!("error {error}")), "{test}: {text}");
    }
    let (ended, text) = in_process("alone_exits_count", &[]);
    assert!(ended && text.contains("error 0"), "{text}");
}
