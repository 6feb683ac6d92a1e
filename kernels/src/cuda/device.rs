//! A device through the CUDA driver, which is looked for when it is asked for: a binary with this feature runs where there is none.
//!
//! Nothing here has run on a device yet; what is tested without one is that its absence is an error with words, and that NVRTC
//! compiles the source where it is installed.
#![allow(
    unsafe_code,
    reason = "the driver takes addresses; every block says which fact makes it sound"
)]

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};
use cudarc::nvrtc::{self, CompileError};

use super::{Argument, KERNELS, Launch, Ptr};

/// Why the device did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no driver to load.
    #[error("no CUDA driver on this machine (libcuda was not found); use the CPU")]
    NoDriver,
    /// The driver refused.
    #[error("CUDA: {op} failed: {source:?}")]
    Driver {
        /// What was asked for.
        op: &'static str,
        /// What the driver said.
        source: DriverError,
    },
    /// There is no compiler to load.
    #[error("no NVRTC on this machine (libnvrtc was not found); use code that nvcc compiled")]
    NoCompiler,
    /// The kernels did not compile.
    #[error("NVRTC does not compile the kernels for {architecture}: {log}")]
    Compile {
        /// What for.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// More bytes than the buffer has.
    #[error("{op}: {bytes} bytes, the buffer has {limit}")]
    Bounds {
        /// The copy.
        op: &'static str,
        /// Bytes to copy.
        bytes: usize,
        /// Bytes there are.
        limit: usize,
    },
    /// The code has no such kernel.
    #[error("no kernel `{name}` in the code that was loaded")]
    UnknownKernel {
        /// The name.
        name: &'static str,
    },
}

type Result<T> = std::result::Result<T, DeviceError>;

fn driver(op: &'static str) -> impl FnOnce(DriverError) -> DeviceError {
    move |source| DeviceError::Driver { op, source }
}

/// The source of all kernels as one text, for NVRTC, which opens no files.
pub fn source() -> String {
    let files = [
        include_str!("device.cuh"),
        include_str!("quantize.cuh"),
        include_str!("product.cuh"),
        include_str!("rope.cuh"),
        include_str!("attention.cuh"),
        include_str!("ops.cu"),
        include_str!("products.cu"),
        include_str!("head.cu"),
        include_str!("decode.cu"),
    ];
    let lines = files.into_iter().flat_map(str::lines);
    lines
        .filter(|line| !line.starts_with("#include \"") && !line.starts_with("#pragma once"))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Compiles the kernels with NVRTC to PTX for an architecture such as `compute_87`.
///
/// # Errors
/// [`DeviceError::NoCompiler`] where NVRTC is not installed, [`DeviceError::Compile`] with its log.
pub fn compile(architecture: &str) -> Result<Vec<u8>> {
    // SAFETY: this only tries to load the library and drops it again.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(DeviceError::NoCompiler);
    }
    let options = nvrtc::CompileOptions {
        options: vec![
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".into(),
        ],
        ..Default::default()
    };
    let failed = |error: CompileError| DeviceError::Compile {
        architecture: architecture.to_owned(),
        log: match error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => format!("{other:?}"),
        },
    };
    let ptx = nvrtc::compile_ptx_with_opts(source(), options).map_err(failed)?;
    // The driver wants the text to end in a NUL.
    let mut bytes = ptx.to_src().into_bytes();
    bytes.push(0);
    Ok(bytes)
}

/// A device with the kernels loaded.
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    /// Functions in the order of [`KERNELS`].
    functions: Vec<sys::CUfunction>,
}

impl Device {
    /// Device `ordinal` with the kernels in `code`: a fat binary or a cubin of nvcc, or PTX that ends in a NUL.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`] where there is none, [`DeviceError::Driver`] where there is no such device or the code does not suit it,
    /// [`DeviceError::UnknownKernel`] if a kernel is missing.
    pub fn open(ordinal: usize, code: &[u8]) -> Result<Self> {
        // SAFETY: this only tries to load the library and drops it again.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver);
        }
        let context = CudaContext::new(ordinal).map_err(driver("opening the device"))?;
        // SAFETY: the context was made current above; the driver reads the code by its own header, which the caller vouches for by
        // having compiled it, and copies it.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }
            .map_err(driver("loading the kernels"))?;
        let find = |name: &'static str| {
            let c_name = CString::new(name).expect("names of kernels have no NUL");
            // SAFETY: the module was loaded above and is never unloaded.
            unsafe { result::module::get_function(module, c_name) }
                .map_err(|_| DeviceError::UnknownKernel { name })
        };
        let functions = KERNELS
            .iter()
            .map(|kernel| find(kernel.name))
            .collect::<Result<_>>()?;
        Ok(Self { context, functions })
    }

    fn bind(&self) -> Result<()> {
        self.context
            .bind_to_thread()
            .map_err(driver("binding the device"))
    }

    /// Room for `bytes` bytes on the device.
    ///
    /// # Errors
    /// [`DeviceError::Driver`], when memory is short, too.
    pub fn room(&self, bytes: usize) -> Result<Buffer> {
        self.bind()?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(driver("allocation"))?;
        Ok(Buffer {
            context: self.context.clone(),
            address,
            bytes,
        })
    }

    /// A copy of values on the device.
    ///
    /// # Errors
    /// As [`room`](Self::room).
    pub fn upload<T: Argument>(&self, values: &[T]) -> Result<Buffer> {
        let mut bytes = Vec::new();
        for value in values {
            value.write(&mut bytes);
        }
        self.upload_bytes(&bytes)
    }

    /// A copy of bytes on the device.
    ///
    /// # Errors
    /// As [`room`](Self::room).
    pub fn upload_bytes(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.room(bytes.len())?;
        // SAFETY: the buffer was made that long.
        unsafe { result::memcpy_htod_sync(buffer.address, bytes) }.map_err(driver("upload"))?;
        Ok(buffer)
    }

    /// Runs a kernel behind those launched before.
    ///
    /// # Errors
    /// [`DeviceError::UnknownKernel`]; [`DeviceError::Driver`] if the grid does not fit the device, or an earlier kernel failed.
    ///
    /// # Safety
    /// Every address in the arguments belongs to a living buffer of this device, as long as the kernel's comment says.
    pub unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        let at = KERNELS
            .iter()
            .position(|kernel| kernel.name == launch.kernel);
        let Some(at) = at else {
            return Err(DeviceError::UnknownKernel {
                name: launch.kernel,
            });
        };
        self.bind()?;
        // 16 bytes suit every struct of the kernels.
        let mut arguments: Vec<Vec<u128>> = Vec::new();
        for bytes in &launch.arguments {
            let words = bytes.chunks(16).map(|chunk| {
                let mut word = [0; 16];
                word[..chunk.len()].copy_from_slice(chunk);
                u128::from_le_bytes(word)
            });
            arguments.push(words.collect());
        }
        let mut pointers: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|words| words.as_mut_ptr().cast())
            .collect();
        let grid = launch.grid;
        let [x, y, z] = grid.blocks;
        let (blocks, threads, shared) = ((x, y, z), (grid.threads, 1, 1), grid.shared_bytes);
        let (function, stream) = (self.functions[at], std::ptr::null_mut());
        // SAFETY: the function is one of this context; the arguments are those of its declaration, which `launch.rs` checks in its
        // tests, and are copied before the call returns. The caller vouches for the addresses in them.
        let launched = unsafe {
            if grid.cooperative {
                result::launch_cooperative_kernel(
                    function,
                    blocks,
                    threads,
                    shared,
                    stream,
                    &mut pointers,
                )
            } else {
                result::launch_kernel(function, blocks, threads, shared, stream, &mut pointers)
            }
        };
        launched.map_err(driver("launch"))
    }

    /// Waits for all launches.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if one of them failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        result::ctx::synchronize().map_err(driver("waiting for the device"))
    }
}

/// Memory of a device.
#[derive(Debug)]
pub struct Buffer {
    context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    /// The address, for kernels.
    pub const fn ptr<T>(&self) -> Ptr<T> {
        Ptr::new(self.address)
    }

    /// Copies the first bytes to `out`, after all launches.
    ///
    /// # Errors
    /// [`DeviceError::Bounds`] if there are fewer; [`DeviceError::Driver`].
    pub fn read(&self, out: &mut [u8]) -> Result<()> {
        if out.len() > self.bytes {
            return Err(DeviceError::Bounds {
                op: "read",
                bytes: out.len(),
                limit: self.bytes,
            });
        }
        self.context
            .bind_to_thread()
            .map_err(driver("binding the device"))?;
        // SAFETY: the buffer is at least that long, and lives.
        unsafe { result::memcpy_dtoh_sync(out, self.address) }.map_err(driver("read"))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the address came from `malloc_sync` and is freed once. Freeing waits for kernels that use it. A device that was lost
            // has nothing to free.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_one_text() {
        let source = source();
        assert!(!source.contains("#include \""));
        for kernel in KERNELS {
            let name = kernel.name;
            // As a function, or stamped by a macro.
            let ways = [format!("{name}("), format!("_KERNEL({name},")];
            let found = ways.iter().any(|way| source.contains(way.as_str()));
            assert!(found, "{name} is not in the source");
        }
    }

    /// Where there is a driver this says nothing; where there is none, words instead of a panic.
    #[test]
    fn a_missing_driver_is_an_error() {
        // SAFETY: as in `Device::open`.
        if !unsafe { sys::is_culib_present() } {
            let error = Device::open(0, &[0]).expect_err("there is no driver");
            assert!(error.to_string().contains("use the CPU"), "{error}");
        }
    }

    #[test]
    fn nvrtc_compiles_the_kernels_where_it_is() {
        match compile("compute_87") {
            Ok(ptx) => assert!(ptx.starts_with(b"//") && ptx.ends_with(&[0])),
            Err(DeviceError::NoCompiler) => println!("skipped: no NVRTC"),
            Err(error) => panic!("{error}"),
        }
    }
}
