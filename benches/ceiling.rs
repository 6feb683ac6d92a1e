//! What the machine gives at most, measured: bytes read per second, and int8 multiply-adds per second.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// Bytes that each thread streams over: far more than any last-level cache holds.
const STREAM_BYTES: usize = 256 << 20;

/// The best of several passes of `threads` threads over memory of their own, in bytes per second of all together.
///
/// The memory asks for huge pages where the system has them, as a loop over 4 KiB pages is limited by address translation.
pub fn stream_read(threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let work = || {
        let mut map = memmap2::MmapMut::map_anon(STREAM_BYTES).expect("256 MiB of memory");
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.chunks_mut(4096).for_each(|page| page[0] = 1);
        let passes = (0..6).map(|_| {
            barrier.wait();
            let start = Instant::now();
            black_box(sum(&map));
            barrier.wait();
            start.elapsed().as_secs_f64()
        });
        passes.fold(f64::INFINITY, f64::min)
    };
    let slowest = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let times = handles
            .into_iter()
            .map(|handle| handle.join().expect("a reading thread does not panic"));
        times.fold(0.0, f64::max)
    });
    (threads * STREAM_BYTES) as f64 / slowest
}

/// Reads every byte, in four streams.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0;
    let (mut totals, quarter) = ([[0u64; 8]; 4], words.len() / 4);
    let streams = [0, 1, 2, 3].map(|i| words[i * quarter..(i + 1) * quarter].as_chunks::<8>().0);
    for i in 0..streams[0].len() {
        for (total, stream) in totals.iter_mut().zip(streams) {
            for (total, word) in total.iter_mut().zip(stream[i]) {
                *total = total.wrapping_add(u64::from_le_bytes(word));
            }
        }
    }
    totals.iter().flatten().fold(0, |a, b| a.wrapping_add(*b))
}

/// Int8 multiply-adds per second of `threads` threads with the widest dot product of this CPU, operands in registers; `None` where it
/// has none that this bench knows.
pub fn int8_dot(threads: usize) -> Option<f64> {
    let kernel = dot_kernel()?;
    const LOOPS: usize = 2_000_000;
    let barrier = Barrier::new(threads);
    let work = || {
        let passes = (0..4).map(|_| {
            barrier.wait();
            let start = Instant::now();
            let products = kernel(black_box(LOOPS));
            products as f64 / start.elapsed().as_secs_f64()
        });
        passes.fold(0.0, f64::max)
    };
    Some(thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let rates = handles
            .into_iter()
            .map(|handle| handle.join().expect("a computing thread does not panic"));
        rates.sum()
    }))
}

/// Runs so many rounds and returns the number of multiply-adds.
type DotKernel = fn(rounds: usize) -> usize;

#[cfg(target_arch = "x86_64")]
fn dot_kernel() -> Option<DotKernel> {
    #![allow(unsafe_code, reason = "vendor intrinsics, behind the check of the CPU")]
    use std::arch::x86_64::*;

    /// Ten chains hide the latency of the instruction.
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn vnni(rounds: usize) -> usize {
        let mut sums = [_mm512_setzero_si512(); 10];
        let (a, b) = (
            _mm512_set1_epi8(black_box(3)),
            _mm512_set1_epi8(black_box(5)),
        );
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        let total = sums.iter().fold(a, |t, s| _mm512_xor_si512(t, *s));
        black_box(_mm512_reduce_add_epi32(total));
        rounds * sums.len() * 64
    }

    #[target_feature(enable = "avx2")]
    fn avx2(rounds: usize) -> usize {
        let mut sums = [_mm256_setzero_si256(); 8];
        let (a, b) = (
            _mm256_set1_epi8(black_box(3)),
            _mm256_set1_epi8(black_box(5)),
        );
        let ones = _mm256_set1_epi16(1);
        for _ in 0..rounds {
            for sum in &mut sums {
                let pairs = _mm256_maddubs_epi16(a, _mm256_xor_si256(b, *sum));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        let total = sums.iter().fold(a, |t, s| _mm256_xor_si256(t, *s));
        black_box(_mm256_extract_epi32::<0>(total));
        rounds * sums.len() * 32
    }

    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the CPU has the features.
        Some(|rounds| unsafe { vnni(rounds) })
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        Some(|rounds| unsafe { avx2(rounds) })
    } else {
        None
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_kernel() -> Option<DotKernel> {
    None
}
