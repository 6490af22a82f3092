//! Choice of the device that holds tensors and computes with them.

use std::{fmt, str::FromStr};

use candle_core::Device;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Configured device: `auto`, `cpu`, `cuda:N` (`cuda` is `cuda:0`) or `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// First GPU that this build can use, or the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPU with this number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

/// Error: the device cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("device {choice}: {why}")]
pub struct DeviceError {
    choice: DeviceChoice,
    why: String,
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// Returns an error if this build does not support the device or the machine has none. `auto`
    /// always succeeds.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => cuda(number).map_err(|why| DeviceError { choice: self, why }),
            Self::Metal => metal().map_err(|why| DeviceError { choice: self, why }),
            Self::Auto => Ok(cuda(0).or_else(|_| metal()).unwrap_or(Device::Cpu)),
        }
    }
}

/// Returns the name of an open device, such as `cpu`, `cuda:0` or `metal:0`.
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Returns the free memory of a GPU in bytes; `None` of another device, or if it is not known.
#[cfg(feature = "cuda")]
pub fn free_memory(device: &Device) -> Option<u64> {
    let stream = device.as_cuda_device().ok()?.cuda_stream();
    let (free, _) = stream.context().mem_get_info().ok()?;
    Some(free as u64)
}

/// Returns the free memory of a GPU in bytes, which this build does not know.
#[cfg(not(feature = "cuda"))]
pub fn free_memory(_: &Device) -> Option<u64> {
    None
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            other => {
                let number = other.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                number
                    .map(Self::Cuda)
                    .ok_or_else(|| format!("`{other}` is not auto, cpu, cuda:N or metal"))
            }
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, String> {
    if !cuda_libraries::present() {
        return Err(
            "the driver or the CUDA libraries (cuBLAS, cuBLASLt, cuRAND) are not installed"
                .to_owned(),
        );
    }
    Device::new_cuda(number).map_err(|e| e.to_string())
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device, String> {
    Err("this build has no CUDA (cargo feature `cuda`)".to_owned())
}

#[cfg(feature = "metal")]
fn metal() -> Result<Device, String> {
    Device::new_metal(0).map_err(|e| e.to_string())
}

#[cfg(not(feature = "metal"))]
fn metal() -> Result<Device, String> {
    Err("this build has no Metal (cargo feature `metal`)".to_owned())
}

/// Check that CUDA's libraries can be loaded, because `Device::new_cuda` panics if one is missing.
/// This is the only `unsafe` code of the file: foreign functions without arguments that return a
/// boolean. They load the libraries, whose initializers are as trusted as the driver.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod cuda_libraries {
    use candle_core::cuda_backend::cudarc as c;

    pub(super) fn present() -> bool {
        // SAFETY: see the module.
        unsafe {
            c::driver::sys::is_culib_present()
                && c::cublas::sys::is_culib_present()
                && c::cublaslt::sys::is_culib_present()
                && c::curand::sys::is_culib_present()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_choice_parses_what_it_prints() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7", "metal"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:-1", "CPU", ""] {
            assert!(text.parse::<DeviceChoice>().unwrap_err().contains(text));
        }
    }

    #[test]
    fn cpu_is_always_available() {
        assert_eq!(name(&DeviceChoice::Cpu.open().unwrap()), "cpu");
        assert!(DeviceChoice::Auto.open().is_ok());
    }

    #[test]
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    fn unsupported_device_is_an_error_that_names_it() {
        assert_eq!(
            DeviceChoice::Cuda(1).open().unwrap_err().to_string(),
            "device cuda:1: this build has no CUDA (cargo feature `cuda`)"
        );
        assert!(
            DeviceChoice::Metal
                .open()
                .unwrap_err()
                .to_string()
                .starts_with("device metal: ")
        );
    }
}
