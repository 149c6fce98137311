//! How a card fares, as NVIDIA's management library tells it: clocks, power, heat. It comes with the driver, is looked for
//! when somebody asks, and nothing depends on it.
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_uint, c_ulonglong, c_void};

const FILE: &str = "libnvidia-ml.so.1";

pub struct Nvml {
    library: Library,
    pub driver: String,
}

/// Of a card, as far as it tells.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct State {
    /// MHz of the multiprocessors: now, and at most.
    pub clock: Option<[u32; 2]>,
    /// MHz of the memory: now, and at most.
    pub memory_clock: Option<[u32; 2]>,
    /// W now, and what it may draw.
    pub power: Option<[f64; 2]>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// It is cut into parts (MIG).
    pub cut: Option<bool>,
    /// What keeps the clocks down.
    pub held_back: Vec<&'static str>,
}

/// Bits of what keeps clocks down. That a card is idle is no news.
const REASONS: [(u64, &str); 6] = [
    (0x2, "a clock that somebody has set"),
    (0x4, "the limit of power"),
    (0x8, "a slowdown of the hardware"),
    (0x20, "heat (software)"),
    (0x40, "heat (hardware)"),
    (0x80, "the power supply"),
];

type Device = *mut c_void;
type Number = unsafe extern "C" fn(Device, *mut c_uint) -> c_int;
type NumberOf = unsafe extern "C" fn(Device, c_uint, *mut c_uint) -> c_int;

impl Nvml {
    /// `Err`: why not, for people.
    pub fn open() -> Result<Nvml, String> {
        let why = |what: String| format!("NVML ({FILE}): {what}; clocks, power and heat are not known");
        // SAFETY: the initialisers of NVIDIA's libraries ask nothing of who loads them.
        let library = unsafe { Library::new(FILE) }.map_err(|_| why("not found".into()))?;
        let mut text: [c_char; 96] = [0; 96];
        // SAFETY: the functions have these types since NVML 2; the text is as long as is said.
        let code = unsafe {
            let init: unsafe extern "C" fn() -> c_int =
                *library.get(b"nvmlInit_v2\0").map_err(|e| why(e.to_string()))?;
            let version: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int =
                *library.get(b"nvmlSystemGetDriverVersion\0").map_err(|e| why(e.to_string()))?;
            match init() {
                0 => version(text.as_mut_ptr(), text.len() as c_uint),
                code => code,
            }
        };
        if code != 0 {
            return Err(why(format!("error {code}")));
        }
        let driver = text.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect();
        Ok(Nvml { library, driver })
    }

    /// Of the card at this place of the machine; what is not told is empty.
    pub fn state(&self, bus: &str) -> State {
        self.device(bus).map_or_else(State::default, |device| {
            let both = |which| {
                Some([
                    self.number_of("nvmlDeviceGetClockInfo", device, which)?,
                    self.number_of("nvmlDeviceGetMaxClockInfo", device, which)?,
                ])
            };
            let watts = |name| Some(f64::from(self.number(name, device)?) / 1e3);
            let power = || Some([watts("nvmlDeviceGetPowerUsage")?, watts("nvmlDeviceGetEnforcedPowerLimit")?]);
            let held_back = self.reasons(device);
            let held_back = REASONS.into_iter().filter(|(bit, _)| held_back & bit != 0).map(|(_, what)| what);
            State {
                clock: both(1),
                memory_clock: both(2),
                power: power(),
                temperature: self.number_of("nvmlDeviceGetTemperature", device, 0),
                cut: self.cut(device),
                held_back: held_back.collect(),
            }
        })
    }

    fn device(&self, bus: &str) -> Option<Device> {
        let bus = CString::new(bus).ok()?;
        let mut device = std::ptr::null_mut();
        // SAFETY: the type of this function; the text ends with a zero.
        let code = unsafe {
            let by_bus: unsafe extern "C" fn(*const c_char, *mut Device) -> c_int =
                *self.library.get(b"nvmlDeviceGetHandleByPciBusId_v2\0").ok()?;
            by_bus(bus.as_ptr(), &mut device)
        };
        (code == 0).then_some(device)
    }

    fn number(&self, name: &str, device: Device) -> Option<u32> {
        let mut value = 0;
        // SAFETY: who calls names a function of this type.
        let code = unsafe { self.library.get::<Number>(name.as_bytes()).ok()?(device, &mut value) };
        (code == 0).then_some(value)
    }

    fn number_of(&self, name: &str, device: Device, which: u32) -> Option<u32> {
        let mut value = 0;
        // SAFETY: as above.
        let code = unsafe { self.library.get::<NumberOf>(name.as_bytes()).ok()?(device, which, &mut value) };
        (code == 0).then_some(value)
    }

    fn cut(&self, device: Device) -> Option<bool> {
        let (mut now, mut next) = (0, 0);
        // SAFETY: the type of this function.
        let code = unsafe {
            let mode: unsafe extern "C" fn(Device, *mut c_uint, *mut c_uint) -> c_int =
                *self.library.get(b"nvmlDeviceGetMigMode\0").ok()?;
            mode(device, &mut now, &mut next)
        };
        (code == 0).then_some(now != 0)
    }

    fn reasons(&self, device: Device) -> u64 {
        let mut bits: c_ulonglong = 0;
        // SAFETY: the type of this function.
        let code = unsafe {
            self.library.get(b"nvmlDeviceGetCurrentClocksThrottleReasons\0").map_or(-1, |reasons| {
                let reasons: libloading::Symbol<unsafe extern "C" fn(Device, *mut c_ulonglong) -> c_int> = reasons;
                reasons(device, &mut bits)
            })
        };
        if code == 0 { bits } else { 0 }
    }
}
