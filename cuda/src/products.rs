//! Matrix products by cuBLASLt. For each kind of product the library's candidates are timed once, and the best one is kept.
//!
//! The library is column-major: a row-major (m, n) is its (n, m), so D = A B is asked for as Dᵀ = Bᵀ Aᵀ, with our second
//! factor as its first.
use crate::driver::{Event, Stream};
use crate::ways::Ways;
use crate::work::{Place, Product};
use backend::DType;
use cudarc::cublaslt::{result, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard};
use sys::cublasLtMatmulDescAttributes_t as OfProduct;
use sys::cublasLtMatmulPreferenceAttributes_t as Prefer;
use sys::{cublasComputeType_t as Compute, cudaDataType_t as Type};

/// What products are made of in f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum F32Products {
    /// f32 multiply-adds.
    #[default]
    Full,
    /// Tensor cores, on factors rounded to ten bits of fraction.
    Tf32,
}

/// Everything about a product but where its tensors are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Kind {
    /// m, n, k
    dims: [usize; 3],
    transposed: [bool; 2],
    factors: DType,
    to: DType,
    added: bool,
    /// Bytes to which a, b, c and d are aligned.
    aligned: [u32; 4],
}

impl Kind {
    fn new(p: &Product, address: &dyn Fn(Place) -> u64) -> Kind {
        // More than this the library does not ask for.
        let aligned = |at: Place| 1 << address(at).trailing_zeros().min(8);
        Kind {
            dims: [p.m, p.n, p.k],
            transposed: [p.a.transposed, p.b.transposed],
            factors: p.a.at.dtype(),
            to: p.d.dtype(),
            added: p.beta != 0.0,
            aligned: [aligned(p.a.at), aligned(p.b.at), aligned(p.c), aligned(p.d)],
        }
    }
}

/// How a kind of product is done.
#[derive(Clone, Copy)]
struct Way {
    product: sys::cublasLtMatmulDesc_t,
    /// Of the library's first factor (ours: b), its second, and the result.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// Of a card, for all ranks on it.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    f32: F32Products,
    /// Bytes that a product may use beside its tensors.
    workspace: usize,
    ways: Mutex<HashMap<Kind, Way>>,
    /// Found by timing. None: the library's first candidate is taken.
    timed: Option<Mutex<Ways>>,
}
// SAFETY: the handle may be used by any thread, and the descriptors are not changed any more.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

/// So many of the library's candidates are timed.
const CANDIDATES: usize = 8;
/// Each so often, and the shortest time counts.
const ROUNDS: usize = 3;

impl Products {
    /// cuBLASLt is loaded.
    pub fn new(f32: F32Products, workspace: usize, timed: Option<Ways>) -> Result<Products, String> {
        let handle = result::create_handle().map_err(|e| format!("cuBLASLt: {e:?}"))?;
        Ok(Products { handle, f32, workspace, ways: Mutex::default(), timed: timed.map(Mutex::new) })
    }

    /// `address` says where places are. A kind that was not met before takes the library's first candidate.
    pub fn run(&self, p: &Product, address: &dyn Fn(Place) -> u64, stream: &Stream) {
        let kind = Kind::new(p, address);
        let way = *self.ways().entry(kind).or_insert_with(|| self.candidates(kind, 1)[0]);
        self.issue(&way, p, address, stream);
    }

    /// Times the candidates for a product, on its own places: what is there is lost.
    pub fn tune(&self, p: &Product, address: &dyn Fn(Place) -> u64, stream: &Stream) {
        let kind = Kind::new(p, address);
        let seconds = |way: &Way| -> f64 {
            self.issue(way, p, address, stream);
            let time = |_| {
                let [began, ended] = [(); 2].map(|()| Event::timed(&stream.card));
                stream.record(&began);
                self.issue(way, p, address, stream);
                stream.record(&ended);
                ended.synchronize();
                began.seconds_until(&ended)
            };
            (0..ROUNDS).map(time).fold(f64::INFINITY, f64::min)
        };
        let Some(timed) = &self.timed else { return };
        // Ranks that share a card do not time at once.
        self.ways().entry(kind).or_insert_with(|| {
            let (mut timed, name) = (timed.lock().expect("nothing panics with the lock"), self.name(kind));
            if let Some(data) = timed.get(&name) {
                let algorithm = sys::cublasLtMatmulAlgo_t { data };
                return Way { algorithm, ..self.candidates(kind, 1)[0] };
            }
            let candidates = self.candidates(kind, CANDIDATES).into_iter().map(|way| (seconds(&way), way));
            let best = candidates.min_by(|a, b| a.0.total_cmp(&b.0)).expect("the library has a way").1;
            timed.keep(name, best.algorithm.data);
            best
        });
    }

    /// As the file of ways has it.
    fn name(&self, kind: Kind) -> String {
        format!("{kind:?} {:?} {}", self.f32, self.workspace)
    }

    fn ways(&self) -> MutexGuard<'_, HashMap<Kind, Way>> {
        self.ways.lock().expect("nothing panics with the lock")
    }

    fn issue(&self, way: &Way, p: &Product, address: &dyn Fn(Place) -> u64, stream: &Stream) {
        stream.card.bind();
        let at = |place: Place| address(place) as *mut c_void;
        let double = p.d.dtype() == DType::F64;
        // Numbers in the type in which sums are kept.
        let (alpha, beta) = ([p.alpha as f32, p.beta as f32], [p.alpha, p.beta]);
        let scalar = |i: usize| -> *const c_void {
            if double { (&raw const beta[i]).cast() } else { (&raw const alpha[i]).cast() }
        };
        let [first, second, to] = way.layouts;
        // SAFETY: the places are checked by an arena and as large as the layouts say; scalars are read at the call.
        let code = unsafe {
            sys::cublasLtMatmul(
                self.handle,
                way.product,
                scalar(0),
                at(p.b.at),
                first,
                at(p.a.at),
                second,
                scalar(1),
                at(p.c),
                to,
                at(p.d),
                to,
                &way.algorithm,
                at(p.workspace),
                self.workspace,
                stream.raw.cast(),
            )
        };
        assert_eq!(code, sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS, "cuBLASLt, {p:?}");
    }

    fn candidates(&self, kind: Kind, most: usize) -> Vec<Way> {
        let Kind { dims: [m, n, k], transposed: [a, b], .. } = kind;
        let (factors, to) = (type_of(kind.factors), type_of(kind.to));
        let (compute, scale) = match (kind.factors, self.f32) {
            (DType::F64, _) => (Compute::CUBLAS_COMPUTE_64F, Type::CUDA_R_64F),
            (DType::F32, F32Products::Tf32) => (Compute::CUBLAS_COMPUTE_32F_FAST_TF32, Type::CUDA_R_32F),
            _ => (Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F),
        };
        let ours = |code: Result<(), result::CublasError>| code.unwrap_or_else(|e| panic!("cuBLASLt, {kind:?}: {e:?}"));
        // A row-major (rows, columns) as the library sees it: (columns, rows), and back where it lies transposed.
        let layout = |dtype, rows: usize, columns: usize| {
            let layout = result::create_matrix_layout(dtype, columns as u64, rows as u64, columns as i64);
            layout.expect("a layout is memory")
        };
        let product = result::create_matmul_desc(compute, scale).expect("a descriptor is memory");
        let preference = result::create_matmul_pref().expect("a preference is memory");
        // SAFETY: attributes are as large as the library says; descriptors that are not kept are destroyed.
        unsafe {
            let op = |transposed: bool| i32::from(transposed);
            for (which, transposed) in
                [(OfProduct::CUBLASLT_MATMUL_DESC_TRANSA, op(b)), (OfProduct::CUBLASLT_MATMUL_DESC_TRANSB, op(a))]
            {
                let value = (&raw const transposed).cast();
                ours(result::set_matmul_desc_attribute(product, which, value, 4));
            }
            // Sums of parts are added in f32 and in one order.
            let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            let [aligned_a, aligned_b, aligned_c, aligned_d] = kind.aligned;
            for (which, value) in [
                (Prefer::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned_b),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned_a),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned_c),
                (Prefer::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned_d),
            ] {
                ours(result::set_matmul_pref_attribute(preference, which, (&raw const value).cast(), 4));
            }
            let most_bytes = Prefer::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let bytes = (&raw const self.workspace).cast();
            ours(result::set_matmul_pref_attribute(preference, most_bytes, bytes, 8));

            let stored = |rows, columns, transposed| if transposed { [columns, rows] } else { [rows, columns] };
            let ([rows_a, columns_a], [rows_b, columns_b]) = (stored(m, k, a), stored(k, n, b));
            let layouts = [layout(factors, rows_b, columns_b), layout(factors, rows_a, columns_a), layout(to, m, n)];
            let [first, second, result_] = layouts;
            let mut found = vec![std::mem::zeroed::<sys::cublasLtMatmulHeuristicResult_t>(); most];
            let mut count = 0;
            let code = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                product,
                first,
                second,
                result_,
                result_,
                preference,
                most as i32,
                found.as_mut_ptr(),
                &mut count,
            );
            ours(result::destroy_matmul_pref(preference));
            let found_some = code == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && count > 0;
            assert!(found_some, "cuBLASLt has no way for {kind:?}: {code:?}");
            let good = found.iter().take(count as usize);
            let good = good.filter(|found| found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS);
            good.map(|found| Way { product, layouts, algorithm: found.algo }).collect()
        }
    }
}

fn type_of(dtype: DType) -> Type {
    match dtype {
        DType::F32 => Type::CUDA_R_32F,
        DType::F64 => Type::CUDA_R_64F,
        DType::BF16 => Type::CUDA_R_16BF,
        DType::F16 => Type::CUDA_R_16F,
        DType::U32 => unreachable!("products are of floats"),
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: created once, in `new`; descriptors live as long as the process, a few hundred bytes for each kind.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
