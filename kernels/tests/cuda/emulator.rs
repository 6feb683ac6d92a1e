//! Builds the emulator, and talks to it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use skimstone_kernels::cuda::{self, Argument, Grid, Launch, Ptr};
use skimstone_kernels::{BLOCK, Format};

use super::support::{Packed, Rng};

pub(crate) struct Programs {
    /// Runs the kernels.
    pub(crate) driver: PathBuf,
    /// Has the planted bugs.
    pub(crate) planted: PathBuf,
}

/// The programs, built by the first caller; `None` where there is no C++ compiler.
pub(crate) fn programs() -> Option<&'static Programs> {
    static PROGRAMS: OnceLock<Option<Programs>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(build).as_ref();
    if programs.is_none() {
        println!("skipped: no C++ compiler (set CXX, or install g++ or clang++)");
    }
    programs
}

fn build() -> Option<Programs> {
    let compilers = [
        std::env::var("CXX").unwrap_or_default(),
        "g++".into(),
        "clang++".into(),
        "c++".into(),
    ];
    let compiler = compilers.into_iter().find(|c| {
        !c.is_empty()
            && Command::new(c)
                .arg("--version")
                .output()
                .is_ok_and(|o| o.status.success())
    })?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpu");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu");
    std::fs::create_dir_all(&out).expect("the target folder can be written");
    // The machine itself is not instrumented, what it runs is.
    let run = |arguments: &[&str]| {
        let output = Command::new(&compiler)
            .current_dir(&source)
            .args(["-std=c++20", "-Wno-unknown-pragmas"])
            .args(arguments)
            .output()
            .expect("it just told its version");
        assert!(
            output.status.success(),
            "{compiler} {arguments:?}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let object = |name: &str| out.join(format!("{name}.o")).display().to_string();
    let machine = ["machine", "memory", "dialect"].map(|name| {
        run(&["-O2", "-c", &format!("{name}.cpp"), "-o", &object(name)]);
        object(name)
    });
    let program = |name: &str| {
        let file = format!("{name}.cpp");
        run(&[
            "-O1",
            "-fsanitize=thread",
            "-DSKIM_GPU_EMULATOR",
            "-I.",
            "-c",
            &file,
            "-o",
            &object(name),
        ]);
        let program = out.join(name);
        let [a, b, c] = &machine;
        run(&[a, b, c, &object(name), "-o", &program.display().to_string()]);
        program
    };
    Some(Programs {
        driver: program("driver"),
        planted: program("planted"),
    })
}

/// A GPU that is not there.
pub(crate) struct Emulator {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// Order of blocks and threads of the next launches.
    pub(crate) seed: u64,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It ends by itself when its input does; this is for the case that it hangs.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Emulator {
    /// `None` where there is no C++ compiler.
    pub(crate) fn start() -> Option<Self> {
        let mut child = Command::new(&programs()?.driver)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let to = child.stdin.take().expect("it is piped");
        let from = child.stdout.take().expect("it is piped");
        Some(Self {
            child,
            to,
            from,
            seed: 0,
        })
    }

    fn send(&mut self, command: u8, numbers: &[u64], data: &[u8]) {
        let mut bytes = vec![command];
        bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend_from_slice(data);
        if self.to.write_all(&bytes).is_err() {
            self.fail();
        }
    }

    #[track_caller]
    fn answer(&mut self, bytes: usize) -> Vec<u8> {
        let mut answer = vec![0; bytes];
        if self.to.flush().is_err() || self.from.read_exact(&mut answer).is_err() {
            self.fail();
        }
        answer
    }

    #[track_caller]
    fn fail(&mut self) -> ! {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            drop(stderr.read_to_string(&mut said));
        }
        panic!("the emulator ended: {said}")
    }

    fn allocate(&mut self, bytes: usize, read_only: bool) -> u64 {
        self.send(b'A', &[bytes as u64, read_only.into()], &[]);
        u64::from_le_bytes(self.answer(8).try_into().unwrap())
    }

    /// Bytes that kernels only read.
    pub(crate) fn constant<T>(&mut self, bytes: &[u8]) -> Ptr<T> {
        let address = self.allocate(bytes.len(), true);
        self.send(b'W', &[address, bytes.len() as u64], bytes);
        Ptr::new(address)
    }

    /// Bytes that kernels may change.
    pub(crate) fn buffer<T>(&mut self, bytes: &[u8]) -> Ptr<T> {
        let address = self.allocate(bytes.len(), false);
        self.send(b'W', &[address, bytes.len() as u64], bytes);
        Ptr::new(address)
    }

    /// Values that kernels only read.
    pub(crate) fn values<T: Argument>(&mut self, values: &[T]) -> Ptr<T> {
        self.constant(&bytes_of(values))
    }

    /// Values that kernels may change.
    pub(crate) fn variables<T: Argument>(&mut self, values: &[T]) -> Ptr<T> {
        self.buffer(&bytes_of(values))
    }

    /// Room for results; every bit is set, so that a float nobody wrote is not a number.
    pub(crate) fn room<T>(&mut self, count: usize) -> Ptr<T> {
        self.buffer(&vec![0xff; count * size_of::<T>()])
    }

    pub(crate) fn read_bytes<T>(&mut self, at: Ptr<T>, count: usize) -> Vec<u8> {
        let bytes = count * size_of::<T>();
        self.send(b'R', &[at.address(), bytes as u64], &[]);
        self.answer(bytes)
    }

    pub(crate) fn floats(&mut self, at: Ptr<f32>, count: usize) -> Vec<f32> {
        let bytes = self.read_bytes(at, count);
        let (values, []) = bytes.as_chunks::<4>() else {
            unreachable!("whole floats")
        };
        values.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    pub(crate) fn words(&mut self, at: Ptr<u32>, count: usize) -> Vec<u32> {
        let bytes = self.read_bytes(at, count);
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect()
    }

    /// Codes, scales and sums of `blocks` int8 blocks.
    pub(crate) fn int8(&mut self, x: Int8, blocks: usize) -> Vec<([i8; BLOCK], f32, i32)> {
        let codes = self.read_bytes(x.codes, blocks * BLOCK);
        let scales = self.read_bytes(x.scales, blocks);
        let codes = codes.as_chunks::<BLOCK>().0.iter();
        codes
            .zip(scales.as_chunks::<8>().0)
            .map(|(codes, s)| {
                let scale = f32::from_le_bytes(s[..4].try_into().unwrap());
                let sum = i32::from_le_bytes(s[4..].try_into().unwrap());
                (codes.map(|c| c as i8), scale, sum)
            })
            .collect()
    }

    /// What int8 blocks of rows of `cols` stand for.
    pub(crate) fn unrounded(&mut self, x: Int8, tokens: usize, cols: usize) -> Vec<f32> {
        let blocks = cols.div_ceil(BLOCK);
        let all = self.int8(x, tokens * blocks);
        let rows = all.chunks_exact(blocks);
        rows.flat_map(|row| {
            row.iter()
                .flat_map(|(codes, scale, _)| codes.map(|c| f32::from(c) * scale))
                .take(cols)
        })
        .collect()
    }

    /// Room for int8 blocks.
    pub(crate) fn int8_room(&mut self, tokens: usize, cols: usize) -> Int8 {
        let blocks = tokens * cols.div_ceil(BLOCK);
        Int8 {
            codes: self.room(blocks * BLOCK),
            scales: self.room(blocks),
        }
    }

    /// Rows of activations, rounded by the kernel for it.
    pub(crate) fn rounded(&mut self, x: &[f32], cols: usize) -> Int8 {
        let tokens = x.len() / cols;
        let out = self.int8_room(tokens, cols);
        let x = self.values(x);
        let warps = tokens * cols.div_ceil(BLOCK);
        let grid = Grid::new(warps.div_ceil(4), 128);
        self.launch(&cuda::skim_quantize(
            grid,
            x,
            out.codes,
            out.scales,
            cols as u32,
            tokens as u32,
        ));
        out
    }

    /// A packed matrix, and its bias if there is one.
    pub(crate) fn matrix(&mut self, w: &Packed, bias: Option<&[f32]>) -> cuda::Matrix {
        cuda::Matrix {
            data: self.constant(w.matrix().bytes()),
            bias: bias.map_or(Ptr::NULL, |bias| self.values(bias)),
            rows: w.rows as u32,
            cols: w.cols as u32,
            format: cuda::format_number(w.format),
            reserved: 0,
        }
    }

    #[track_caller]
    pub(crate) fn launch(&mut self, launch: &Launch) {
        let Launch {
            kernel,
            grid,
            arguments,
        } = launch;
        let mut numbers = vec![kernel.len() as u64];
        self.send(b'L', &numbers, kernel.as_bytes());
        numbers.clear();
        numbers.extend(grid.blocks.map(u64::from));
        numbers.extend([u64::from(grid.threads), 1, 1]);
        numbers.extend([
            u64::from(grid.shared_bytes),
            u64::from(grid.cooperative),
            self.seed,
            arguments.len() as u64,
        ]);
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        for argument in arguments {
            bytes.extend((argument.len() as u64).to_le_bytes());
            bytes.extend_from_slice(argument);
        }
        if self.to.write_all(&bytes).is_err() {
            self.fail();
        }
        assert_eq!(self.answer(1), [1]);
    }
}

/// Rounded activations on the device.
#[derive(Clone, Copy)]
pub(crate) struct Int8 {
    pub(crate) codes: Ptr<i8>,
    pub(crate) scales: Ptr<cuda::Scale>,
}

pub(crate) fn bytes_of<T: Argument>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        value.write(&mut bytes);
    }
    bytes
}

/// Packed weights of ordinary size for a model: outputs about as large as inputs.
pub(crate) fn weights(rng: &mut Rng, format: Format, rows: usize, cols: usize) -> Packed {
    let factor = 1.0 / (cols as f32).sqrt();
    let values: Vec<f32> = (0..rows * cols).map(|_| factor * rng.unit()).collect();
    Packed::new(format, rows, cols, &values)
}

/// Errors of roundings in a product, as `conformance.rs` has them: per output, what its terms add up to without signs.
pub(crate) fn reach(w: &[f32], x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks_exact(cols) {
        let largest: Vec<f32> = x
            .chunks(BLOCK)
            .map(|b| b.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 254.0)
            .collect();
        for w in w.chunks_exact(cols) {
            let terms = w.iter().zip(x).enumerate();
            out.push(
                terms
                    .map(|(c, (w, x))| w.abs() * (x.abs() + largest[c / BLOCK]))
                    .sum(),
            );
        }
    }
    out
}
