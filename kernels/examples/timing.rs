//! scratch
use skimstone_kernels::*;
use std::time::Instant;
fn main() {
    let threads: usize = std::env::args().nth(1).map_or(1, |s| s.parse().unwrap());
    for table in tables() {
        if table.name() == "scalar" || std::env::args().nth(2).is_some_and(|n| n != table.name()) {
            continue;
        }
        let cpu = Cpu::with_table(table, threads).unwrap();
        for f in Format::ALL {
            for (rows, cols, t) in [
                (128, 128, 1),
                (384, 128, 1),
                (1024, 1024, 1),
                (4096, 4096, 1),
                (8192, 8192, 1),
                (1024, 1024, 64),
            ] {
                let vals: Vec<f32> = (0..cols)
                    .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01)
                    .collect();
                let rb = f.row_bytes(cols);
                let mut row = vec![0u8; rb];
                quant::pack_row(f, &vals, &mut row).unwrap();
                // many copies to exceed the cache
                let bytes = row.repeat(rows);
                let copies = if t == 1 && rows > 1000 {
                    (400_000_000 / bytes.len()).clamp(1, 64)
                } else {
                    1
                };
                let mats: Vec<Vec<u8>> = (0..copies).map(|_| bytes.clone()).collect();
                let x: Vec<f32> = vals.iter().cycle().take(cols * t).copied().collect();
                let mut acts = Activations::new(t, cols);
                cpu.load(&mut acts, &x, cols, true).unwrap();
                let mut y = vec![0.0; rows * t];
                let mut best = f64::MAX;
                let inner = if rows < 1000 { 100 } else { 1 };
                let until = Instant::now() + std::time::Duration::from_millis(400);
                while Instant::now() < until {
                    for m in &mats {
                        let start = Instant::now();
                        for _ in 0..inner {
                            cpu.matmul(&Matrix::new(f, rows, cols, m).unwrap(), &acts, &mut y)
                                .unwrap();
                        }
                        best = best.min(start.elapsed().as_secs_f64() / inner as f64);
                    }
                }
                println!(
                    "{:20} {:4} [{rows},{cols}] T={t}: {:9.2} us {:7.1} GB/s {:7.1} GMAC/s",
                    cpu.name(),
                    f.name(),
                    best * 1e6,
                    bytes.len() as f64 / best / 1e9,
                    (rows * cols * t) as f64 / best / 1e9
                );
            }
        }
    }
}
