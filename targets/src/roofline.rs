//! Predicted speed: what must be moved and multiplied per token, over what a target moves and multiplies.
//!
//! ```text
//! decode   seconds a token  = weights / (bandwidth · d) + positions · kv / (bandwidth · k)
//! prefill  seconds a token  = layer macs / (int8 · p) + positions · attention macs / (int8 · a)
//! ```
//!
//! Neither is faster than the other resource allows: decoding multiplies each weight once, prefill reads the layers once per chunk.
//! The shares `d`, `k`, `p` and `a` are not chosen: they are what this runtime reached of the same two ceilings on the machine of
//! `benches/record`, read from the committed files. `p` grows with the model, as fixed costs weigh less: it follows the power law
//! through the recorded sizes, which for models far from them is a guess. On other instruction sets all shares are an assumption.

use skimstone::kernels::KvFormat;

use crate::profiles::{BandwidthIs, Profile};

/// Whole models beside the ceilings of their run.
const PEERS: &str =
    include_str!("../../benches/record/x86-64-avx512vnni-2-cores/2026-11-23-peers.csv");
/// Single operations beside them.
const KERNELS: &str =
    include_str!("../../benches/record/x86-64-avx512vnni-2-cores/2026-11-23-kernels.csv");
/// Where the shares come from, for people.
pub(crate) const RECORD: &str =
    "benches/record/x86-64-avx512vnni-2-cores/2026-11-23-peers.csv and -kernels.csv";
/// The runs of whole models that count: a short prompt at no depth, all cores.
const CASE: &str = "prompt 128 depth 0 threads 2";

/// Positions that one pass of prefill takes, as in the sdk.
const CHUNK: f64 = 64.0;

/// The models of the record, and the multiply-adds of their layers per token: of q, k, v, o, gate, up and down.
const RECORDED: [(&str, f64); 3] = [
    ("smollm2-135m", 106.2e6),
    ("qwen2.5-0.5b", 357.8e6),
    ("qwen2.5-1.5b", 1310.2e6),
];

/// Shares of a ceiling over the models of the record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Which share of the ceilings this runtime reaches.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shares {
    /// Bandwidth, of weights while decoding.
    pub(crate) decode: Spread,
    /// Int8 multiply-adds, of the layers in prefill.
    pub(crate) prefill: Spread,
    /// Bandwidth, of keys and values while decoding.
    pub(crate) kv: f64,
    /// Int8 multiply-adds, of attention.
    pub(crate) attention: f64,
}

impl Shares {
    /// Those of the committed record, for layers of `layer_macs` and keys and values in `kv`.
    pub(crate) fn recorded(kv: KvFormat, layer_macs: f64) -> Shares {
        let attention = format!("attention/depth2048/{}", kv.name());
        let one = |column: &str| column_of(KERNELS, &attention, None, column);
        let median = |values: Vec<(&str, f64)>| spread(values.iter().map(|row| row.1)).median;
        let decode = column_of(PEERS, CASE, Some("decode"), "of_ceiling");
        Shares {
            decode: spread(decode.iter().map(|row| row.1)),
            prefill: at_size(prefill_rows(), layer_macs),
            kv: median(one("of_stream")),
            attention: median(one("of_int8")),
        }
    }
}

/// Whether the record has smaller and larger models than one with layers of `layer_macs`.
pub(crate) fn is_between_recorded(layer_macs: f64) -> bool {
    let [(_, smallest), .., (_, largest)] = RECORDED;
    (smallest..=largest).contains(&layer_macs)
}

/// Multiply-adds of the layers and share of the int8 peak, for every recorded prefill.
fn prefill_rows() -> Vec<(f64, f64)> {
    let rows = column_of(PEERS, CASE, Some("prefill"), "of_ceiling");
    let sized = rows.into_iter().filter_map(|(case, share)| {
        let (_, macs) = RECORDED.iter().find(|(name, _)| case.starts_with(name))?;
        Some((*macs, share))
    });
    sized.collect()
}

/// The power law through `rows` (least squares of logarithms) at `size`, and what the row lowest and the row highest beside it would
/// give.
fn at_size(rows: Vec<(f64, f64)>, size: f64) -> Spread {
    let n = rows.len() as f64;
    let logs: Vec<(f64, f64)> = rows.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (sx, sy) = logs.iter().fold((0.0, 0.0), |s, (x, y)| (s.0 + x, s.1 + y));
    let (mx, my) = (sx / n, sy / n);
    let above: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    let below: f64 = logs.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    let law = |x: f64| my + above / below * (x - mx);
    let beside = spread(logs.iter().map(|(x, y)| (y - law(*x)).exp()));
    let median = law(size.max(1.0).ln()).exp().min(1.0);
    Spread {
        median,
        low: median * beside.low,
        high: (median * beside.high).min(1.0),
    }
}

/// Case and value of `column` in the rows whose first field ends with `case`, and whose second is `what` if that is given.
fn column_of<'c>(
    csv: &'c str,
    case: &str,
    what: Option<&str>,
    column: &str,
) -> Vec<(&'c str, f64)> {
    let mut lines = csv.lines().filter(|line| !line.starts_with('#'));
    let header = lines.next().unwrap_or_default();
    let Some(at) = header.split(',').position(|name| name == column) else {
        return Vec::new();
    };
    let values = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        let name = *fields.first()?;
        let wanted =
            name.ends_with(case) && what.is_none_or(|what| fields.get(1).copied() == Some(what));
        wanted.then(|| Some((name, fields.get(at)?.parse().ok()?)))?
    });
    values.collect()
}

/// The files are part of the binary and a test reads them, so that there are values.
fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    Spread {
        median: (values[(n - 1) / 2] + values[n / 2]) / 2.0,
        low: values[0],
        high: values[n - 1],
    }
}

/// What a target gives at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Machine {
    /// Bytes a second.
    pub(crate) bandwidth: Option<f64>,
    /// The bandwidth is one that cores do not reach.
    pub(crate) is_peak: bool,
    /// Multiply-adds a second.
    pub(crate) int8: Option<f64>,
}

impl Machine {
    pub(crate) fn of(profile: &Profile) -> Machine {
        let memory = &profile.memory;
        let giga = |number: &crate::profiles::Number| number.value * 1e9;
        Machine {
            bandwidth: memory.bandwidth_gb_per_s.as_ref().map(giga),
            is_peak: memory.bandwidth_is == Some(BandwidthIs::Peak),
            int8: profile.cpu.int8_gigamacs_per_s.as_ref().map(giga),
        }
    }
}

/// What one token costs a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Work {
    /// Bytes of weights that a decoded token reads: all but an embedding that is not the head.
    pub(crate) weight_bytes: f64,
    /// Those of the layers alone.
    pub(crate) layer_bytes: f64,
    /// Multiply-adds of the layers' products.
    pub(crate) layer_macs: f64,
    /// Those of the head.
    pub(crate) head_macs: f64,
    /// Bytes of keys and values per position that is looked at.
    pub(crate) kv_bytes: f64,
    /// Multiply-adds of attention per position that is looked at.
    pub(crate) attention_macs: f64,
    /// The layers' products use int8 dot products; the record has no other.
    pub(crate) is_int8: bool,
}

/// Tokens a second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Rate {
    pub(crate) tokens_per_s: f64,
    /// With the lowest share in the record.
    pub(crate) low: f64,
    /// With the highest.
    pub(crate) high: f64,
}

/// Predictions for one model on one target.
#[derive(Debug, Clone)]
pub(crate) struct Roofline {
    pub(crate) machine: Machine,
    pub(crate) work: Work,
    pub(crate) shares: Shares,
}

impl Roofline {
    /// Seconds of one decoded token that looks at `depth` positions.
    pub(crate) fn decode_seconds(&self, depth: f64) -> Option<f64> {
        self.decode_with(depth, self.shares.decode.median)
    }

    fn decode_with(&self, depth: f64, share: f64) -> Option<f64> {
        let (work, bandwidth) = (&self.work, self.machine.bandwidth?);
        let memory = work.weight_bytes / (bandwidth * share)
            + depth * work.kv_bytes / (bandwidth * self.shares.kv);
        let compute = self.compute(work.layer_macs + work.head_macs, self.shares.prefill.median);
        Some(memory.max(compute.unwrap_or(0.0)))
    }

    /// Seconds of a prompt of `tokens` on an empty session.
    pub(crate) fn prefill_seconds(&self, tokens: f64) -> Option<f64> {
        self.prefill_with(tokens, self.shares.prefill.median)
    }

    fn prefill_with(&self, tokens: f64, share: f64) -> Option<f64> {
        let work = &self.work;
        let attention = tokens / 2.0 * work.attention_macs;
        let products = self.compute(tokens * work.layer_macs, share)?;
        let compute = products + self.compute(tokens * attention, self.shares.attention)?;
        let passes = (tokens / CHUNK).ceil();
        let memory = self.machine.bandwidth.map_or(0.0, |bandwidth| {
            passes * work.layer_bytes / (bandwidth * self.shares.decode.median)
        });
        Some(compute.max(memory))
    }

    fn compute(&self, macs: f64, share: f64) -> Option<f64> {
        let int8 = self.machine.int8.filter(|_| self.work.is_int8)?;
        Some(macs / (int8 * share))
    }

    /// Decoding behind `depth` positions.
    pub(crate) fn decode(&self, depth: f64) -> Option<Rate> {
        rate(self.shares.decode, |share| {
            Some(1.0 / self.decode_with(depth, share)?)
        })
    }

    /// Reading a prompt of `tokens`.
    pub(crate) fn prefill(&self, tokens: f64) -> Option<Rate> {
        rate(self.shares.prefill, |share| {
            Some(tokens / self.prefill_with(tokens, share)?)
        })
    }
}

fn rate(shares: Spread, tokens_per_s: impl Fn(f64) -> Option<f64>) -> Option<Rate> {
    Some(Rate {
        tokens_per_s: tokens_per_s(shares.median)?,
        low: tokens_per_s(shares.low)?,
        high: tokens_per_s(shares.high)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_gives_shares() {
        for kv in KvFormat::ALL {
            let shares = Shares::recorded(kv, 3e8);
            for spread in [shares.decode, shares.prefill] {
                assert!(
                    0.0 < spread.low && spread.low <= spread.median,
                    "{spread:?}"
                );
                assert!(
                    spread.median <= spread.high && spread.high < 1.0,
                    "{spread:?}"
                );
            }
            assert!(shares.kv > 0.0 && shares.attention > 0.0);
        }
        // Rows of 2026-11-23 by hand: 0.849 0.891 0.901 | 0.925 0.942 0.966.
        let decode = Shares::recorded(KvFormat::F16, 3e8).decode;
        assert!((decode.median - 0.913).abs() < 1e-9, "{decode:?}");
        assert_eq!((decode.low, decode.high), (0.849, 0.966));
        // Every row of the case belongs to a model whose size is known.
        let rows = column_of(PEERS, CASE, Some("prefill"), "of_ceiling");
        assert_eq!(prefill_rows().len(), rows.len());
        let at = |macs: f64| Shares::recorded(KvFormat::F16, macs).prefill.median;
        assert!(at(1e6) < at(1e8) && at(1e8) < at(1e9));
        // 0.464, 0.469 and 0.464 are recorded there.
        assert!((at(357.8e6) - 0.45).abs() < 0.05, "{}", at(357.8e6));
        assert!(is_between_recorded(357.8e6) && !is_between_recorded(1e6));
    }

    #[test]
    fn a_power_law_is_found_again() {
        let rows = vec![(1.0, 0.1), (16.0, 0.2), (256.0, 0.4)];
        let share = at_size(rows, 4.0);
        // The fourth root: 0.1 · 4^(1/4).
        near(Some(share.median), 0.1 * 2f64.sqrt());
        near(Some(share.low), share.median);
        // No share is above the whole.
        assert_eq!(at_size(vec![(1.0, 0.1), (2.0, 0.9)], 1e9).median, 1.0);
    }

    /// 1 GB/s and 10 multiply-adds a ns; half of each is reached, a quarter of it by keys, values and attention.
    fn small() -> Roofline {
        let half = Spread {
            median: 0.5,
            low: 0.25,
            high: 1.0,
        };
        Roofline {
            machine: Machine {
                bandwidth: Some(1e9),
                is_peak: false,
                int8: Some(1e10),
            },
            work: Work {
                weight_bytes: 1e6,
                layer_bytes: 1e6,
                layer_macs: 1e6,
                head_macs: 0.0,
                kv_bytes: 1e3,
                attention_macs: 1e3,
                is_int8: true,
            },
            shares: Shares {
                decode: half,
                prefill: half,
                kv: 0.25,
                attention: 0.25,
            },
        }
    }

    fn near(a: Option<f64>, b: f64) {
        let a = a.unwrap();
        assert!((a / b - 1.0).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn seconds_by_hand() {
        let line = small();
        // 1 MB at 0.5 GB/s is 2 ms; 100 positions of 1 kB at 0.25 GB/s are 0.4 ms.
        near(line.decode_seconds(0.0), 2e-3);
        near(line.decode_seconds(100.0), 2.4e-3);
        let rate = line.decode(0.0).unwrap();
        assert_eq!(
            (rate.low, rate.tokens_per_s, rate.high),
            (250.0, 500.0, 1000.0)
        );
        // 1000 tokens: 1e9 products at 5e9/s are 0.2 s; 500 positions on average, 5e8 at 2.5e9/s are 0.2 s.
        near(line.prefill_seconds(1000.0), 0.4);
        // A single token waits for the weights: 2 ms, where the products take 0.2 ms.
        near(line.prefill_seconds(1.0), 2e-3);
    }

    #[test]
    fn the_other_resource_limits_too() {
        let mut line = small();
        line.machine.int8 = Some(1e8);
        // 1e6 products at 5e7/s are 20 ms, longer than 2 ms of reading.
        near(line.decode_seconds(0.0), 2e-2);
    }

    #[test]
    fn what_is_unknown_is_not_predicted() {
        let mut line = small();
        line.machine.bandwidth = None;
        assert_eq!(line.decode(0.0), None);
        assert!(line.prefill(10.0).is_some());
        line.machine.int8 = None;
        assert_eq!(line.prefill(10.0), None);
        let mut float = small();
        float.work.is_int8 = false;
        assert_eq!(float.prefill(10.0), None);
        assert!(float.decode(0.0).is_some());
    }
}
