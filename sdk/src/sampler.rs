//! From logits to a token.
//!
//! The chain, in this order:
//!
//! 1. **logit bias**: added to the logits of single tokens;
//! 2. **repetition penalty**: logits of tokens seen before are divided by it if positive, multiplied if negative;
//! 3. **temperature**: divides the logits; at 0 the largest logit wins (ties: the lowest id) and the rest is skipped;
//! 4. **top-k**: keeps the `k` most likely tokens;
//! 5. **top-p**: keeps the smallest set of most likely tokens whose probability reaches `p`;
//! 6. **min-p**: keeps tokens at least `min_p` times as likely as the most likely one;
//! 7. a draw from what is left.
//!
//! Log-probabilities are those of the *raw* logits, before the chain: they say what the model thought, not what was allowed.
//! After creation nothing allocates.

use skimstone_kernels::Table;

use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;

/// What the sampler may do. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Spread of the distribution; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens that reaches this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens that were seen before less likely; 1 does nothing.
    pub repetition_penalty: f32,
    /// Added to the logits of these tokens. `f32::NEG_INFINITY` forbids a token.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Same seed and same logits give the same tokens.
    pub seed: u64,
    /// `None`: no log-probabilities. `Some(n)`: that of the chosen token and of the `n` most likely ones.
    pub logprobs: Option<usize>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// The token.
    pub id: TokenId,
    /// Natural logarithm of its raw probability; NaN if log-probabilities were not asked for.
    pub logprob: f32,
}

/// The chain of logits processors, with its memory.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    table: &'static Table,
    random: Xoshiro256,
    /// Logits as edited by the chain. `[V]`
    logits: Vec<f32>,
    /// Candidates, most likely first once sorted. `[V]`
    order: Vec<TokenId>,
    /// Which tokens the repetition penalty applies to. `[V]`
    seen: Vec<bool>,
    top: Vec<(TokenId, f32)>,
}

impl Sampler {
    /// A sampler for logits of `vocab_size` values.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] if an option is outside its range, naming it; [`ErrorKind::Token`] for a biased token outside the
    /// vocabulary; [`ErrorKind::Backend`] if the environment names kernels that cannot run here.
    pub fn new(vocab_size: usize, options: SamplerOptions) -> Result<Self> {
        check(&options, vocab_size)?;
        let (mut logits, mut order) = (Vec::new(), Vec::new());
        memory::reserve(&mut logits, vocab_size)?;
        memory::reserve(&mut order, vocab_size)?;
        Ok(Sampler {
            table: Table::from_env()?,
            random: Xoshiro256::new(options.seed),
            logits,
            order,
            seen: memory::zeros(vocab_size)?,
            top: Vec::with_capacity(options.logprobs.unwrap_or(0).min(vocab_size)),
            options,
        })
    }

    /// Bytes of a sampler for `vocab_size` values.
    pub(crate) fn bytes(vocab_size: usize) -> u64 {
        (vocab_size * (size_of::<f32>() + size_of::<TokenId>() + size_of::<bool>())) as u64
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Counts `ids` as seen by the repetition penalty; a prompt, for instance. Sampled tokens count by themselves.
    pub fn observe(&mut self, ids: &[TokenId]) {
        for &id in ids {
            if let Some(seen) = self.seen.get_mut(id as usize) {
                *seen = true;
            }
        }
    }

    /// Starts over: same seed, nothing seen.
    pub fn reset(&mut self) {
        self.random = Xoshiro256::new(self.options.seed);
        self.seen.fill(false);
    }

    /// Where the draws stand, to go on from in another process.
    pub(crate) fn random(&self) -> [u64; 4] {
        self.random.state
    }

    /// Goes on with the draws from there.
    pub(crate) fn set_random(&mut self, state: [u64; 4]) {
        self.random.state = state;
    }

    /// Picks a token.
    ///
    /// # Errors
    /// [`ErrorKind::NonFinite`] if a logit is NaN or +∞, naming the token; [`ErrorKind::Argument`] if the number of logits is not
    /// the vocabulary or every token is forbidden.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Sampled> {
        if logits.len() != self.seen.len() {
            let message = format!(
                "{} logits for a vocabulary of {}",
                logits.len(),
                self.seen.len()
            );
            return Err(Error::new(ErrorKind::Argument, message));
        }
        if let Some(id) = first(logits, |x| x.is_nan() || x == f32::INFINITY) {
            let message = format!("the logit of token {id} is {}", logits[id]);
            return Err(
                Error::new(ErrorKind::NonFinite, message).with_hint("are the weights damaged?")
            );
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.edit();
        let id = if self.options.temperature == 0.0 {
            let best = self.table.argmax(&self.logits);
            (self.logits[best] > f32::NEG_INFINITY).then_some(best as TokenId)
        } else {
            self.draw()
        };
        let id = id.ok_or_else(|| Error::new(ErrorKind::Argument, "every token is forbidden"))?;
        self.seen[id as usize] = true;
        let logprob = if self.options.logprobs.is_some() {
            self.measure(logits, id)
        } else {
            f32::NAN
        };
        Ok(Sampled { id, logprob })
    }

    /// The most likely tokens of the last distribution with their log-probabilities, as many as `logprobs` asked for.
    pub fn top_logprobs(&self) -> &[(TokenId, f32)] {
        &self.top
    }

    /// Steps 1 and 2 of the chain.
    fn edit(&mut self) {
        for &(id, bias) in &self.options.logit_bias {
            self.logits[id as usize] += bias;
        }
        let penalty = self.options.repetition_penalty;
        if penalty != 1.0 {
            for (x, _) in self
                .logits
                .iter_mut()
                .zip(&self.seen)
                .filter(|(_, seen)| **seen)
            {
                *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
            }
        }
    }

    /// Steps 3 to 7; `None` if nothing can be drawn.
    fn draw(&mut self) -> Option<TokenId> {
        let SamplerOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.options;
        let Sampler {
            logits,
            order,
            random,
            ..
        } = self;
        let vocab = logits.len();
        order.clear();
        order.extend(0..vocab as TokenId);
        let rank = |a: &TokenId, b: &TokenId| {
            logits[*b as usize]
                .total_cmp(&logits[*a as usize])
                .then(a.cmp(b))
        };
        if top_k > 0 && top_k < vocab {
            order.select_nth_unstable_by(top_k - 1, rank);
            order.truncate(top_k);
        }
        // Only top-p needs the order; without it the draw goes through the vocabulary as it stands.
        if top_p < 1.0 {
            order.sort_unstable_by(rank);
        }
        let max = order
            .iter()
            .map(|&id| logits[id as usize])
            .fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            return None;
        }
        // From here on the edited logits are weights; that of the most likely token is 1.
        for &id in order.iter() {
            let x = &mut logits[id as usize];
            *x = ((*x - max) / temperature).exp();
        }
        let weight = |id: &TokenId| f64::from(logits[*id as usize]);
        if top_p < 1.0 {
            let enough = f64::from(top_p) * order.iter().map(weight).sum::<f64>();
            let mut reached = 0.0;
            let keep = order.iter().take_while(|id| {
                let more = reached < enough;
                reached += weight(id);
                more
            });
            let keep = keep.count().max(1);
            order.truncate(keep);
        }
        order.retain(|id| logits[*id as usize] > 0.0 && logits[*id as usize] >= min_p);
        let mut left = random.unit() * order.iter().map(weight).sum::<f64>();
        let drawn = order.iter().find(|id| {
            left -= weight(id);
            left < 0.0
        });
        // Rounding may leave a crumb; it belongs to the last candidate.
        drawn.or(order.last()).copied()
    }

    /// Fills `top` and returns the log-probability of `id` under the raw `logits`.
    fn measure(&mut self, logits: &[f32], id: TokenId) -> f32 {
        let log_sum = self.table.log_sum_exp(logits);
        let logprob = |id: TokenId| (f64::from(logits[id as usize]) - log_sum) as f32;

        let wanted = self.options.logprobs.unwrap_or(0).min(logits.len());
        self.top.clear();
        if wanted > 0 {
            let rank = |a: &TokenId, b: &TokenId| {
                logits[*b as usize]
                    .total_cmp(&logits[*a as usize])
                    .then(a.cmp(b))
            };
            self.order.clear();
            self.order.extend(0..logits.len() as TokenId);
            self.order.select_nth_unstable_by(wanted - 1, rank);
            self.order[..wanted].sort_unstable_by(rank);
            self.top
                .extend(self.order[..wanted].iter().map(|&id| (id, logprob(id))));
        }
        logprob(id)
    }
}

fn check(options: &SamplerOptions, vocab_size: usize) -> Result<()> {
    let ranges = [
        ("temperature", options.temperature, 0.0, f32::MAX),
        ("top_p", options.top_p, f32::MIN_POSITIVE, 1.0),
        ("min_p", options.min_p, 0.0, 1.0),
        (
            "repetition_penalty",
            options.repetition_penalty,
            f32::MIN_POSITIVE,
            f32::MAX,
        ),
    ];
    for (name, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            let message = format!("{name} is {value}, must be from {low} to {high}");
            return Err(Error::new(ErrorKind::Argument, message));
        }
    }
    for &(id, bias) in &options.logit_bias {
        if id as usize >= vocab_size {
            let message = format!("logit bias for token {id}, the vocabulary has {vocab_size}");
            return Err(Error::new(ErrorKind::Token, message));
        }
        if bias.is_nan() || bias == f32::INFINITY {
            let message = format!("logit bias of token {id} is {bias}, must be finite or -inf");
            return Err(Error::new(ErrorKind::Argument, message));
        }
    }
    Ok(())
}

/// Index of the first value that `is` true of.
///
/// Sixteen at a time, so that the compiler makes vectors of them: the vocabulary may be large.
fn first(x: &[f32], is: impl Fn(f32) -> bool) -> Option<usize> {
    let (chunks, _) = x.as_chunks::<16>();
    let chunk = chunks
        .iter()
        .position(|chunk| chunk.iter().fold(false, |any, x| any | is(*x)));
    let start = 16 * chunk.unwrap_or(chunks.len());
    x[start..].iter().position(|x| is(*x)).map(|i| start + i)
}

/// xoshiro256++ by Blackman and Vigna (2019), seeded through splitmix64 as its authors advise. Small, fast, and the same on
/// every platform; not for secrets.
#[derive(Debug, Clone)]
struct Xoshiro256 {
    state: [u64; 4],
}

impl Xoshiro256 {
    fn new(seed: u64) -> Self {
        let mut x = seed;
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Xoshiro256 { state }
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let out = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        out
    }

    /// Uniform in [0, 1), 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(LOGITS.len(), options).unwrap()
    }

    /// Share of each token in 20 000 draws; the standard error is below 0.004.
    fn shares(options: SamplerOptions) -> [f64; 5] {
        let mut sampler = sampler(options);
        let mut counts = [0.0; 5];
        for _ in 0..20_000 {
            sampler.seen.fill(false);
            counts[sampler.sample(&LOGITS).unwrap().id as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn softmax(keep: &[usize], temperature: f64) -> [f64; 5] {
        let weight = |i: usize| {
            if keep.contains(&i) {
                (f64::from(LOGITS[i]) / temperature).exp()
            } else {
                0.0
            }
        };
        let total: f64 = (0..5).map(weight).sum();
        std::array::from_fn(|i| weight(i) / total)
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        assert_eq!(
            sampler(SamplerOptions::default())
                .sample(&LOGITS)
                .unwrap()
                .id,
            1
        );
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        struct Case(SamplerOptions, &'static [usize], f64);
        let base = SamplerOptions {
            temperature: 1.0,
            seed: 7,
            ..SamplerOptions::default()
        };
        let cases = [
            Case(base.clone(), &[0, 1, 2, 3, 4], 1.0),
            Case(
                SamplerOptions {
                    temperature: 2.0,
                    ..base.clone()
                },
                &[0, 1, 2, 3, 4],
                2.0,
            ),
            Case(
                SamplerOptions {
                    top_k: 2,
                    ..base.clone()
                },
                &[1, 3],
                1.0,
            ),
            // 1 and 3 together have 0.78; 2 reaches 0.9.
            Case(
                SamplerOptions {
                    top_p: 0.9,
                    ..base.clone()
                },
                &[1, 2, 3],
                1.0,
            ),
            Case(
                SamplerOptions {
                    min_p: 0.3,
                    ..base.clone()
                },
                &[1, 2, 3],
                1.0,
            ),
            Case(
                SamplerOptions {
                    logit_bias: vec![(1, f32::NEG_INFINITY)],
                    ..base.clone()
                },
                &[0, 2, 3, 4],
                1.0,
            ),
        ];
        for Case(options, keep, temperature) in cases {
            let (got, want) = (shares(options.clone()), softmax(keep, temperature));
            for (got, want) in got.iter().zip(want) {
                assert!(
                    (got - want).abs() < 0.016,
                    "{options:?}: {got} instead of {want}"
                );
            }
        }
    }

    #[test]
    fn same_seed_same_tokens_and_reset_starts_over() {
        let options = SamplerOptions {
            temperature: 1.0,
            seed: 3,
            repetition_penalty: 1.3,
            ..SamplerOptions::default()
        };
        let mut a = sampler(options.clone());
        let draw = |s: &mut Sampler| {
            (0..50)
                .map(|_| s.sample(&LOGITS).unwrap().id)
                .collect::<Vec<_>>()
        };
        let first = draw(&mut a);
        assert_eq!(first, draw(&mut sampler(options)));
        a.reset();
        assert_eq!(first, draw(&mut a));
    }

    #[test]
    fn repetition_penalty_turns_to_the_next_token() {
        let mut sampler = sampler(SamplerOptions {
            repetition_penalty: 4.0,
            ..SamplerOptions::default()
        });
        sampler.observe(&[1]);
        let ids: Vec<_> = (0..3)
            .map(|_| sampler.sample(&LOGITS).unwrap().id)
            .collect();
        assert_eq!(ids, [3, 2, 0]);
    }

    #[test]
    fn logprobs_are_those_of_the_raw_distribution() {
        let options = SamplerOptions {
            logit_bias: vec![(4, 100.0)],
            logprobs: Some(2),
            ..SamplerOptions::default()
        };
        let mut sampler = sampler(options);
        let sampled = sampler.sample(&LOGITS).unwrap();
        let want = softmax(&[0, 1, 2, 3, 4], 1.0);
        assert_eq!(sampled.id, 4);
        assert!((f64::from(sampled.logprob) - want[4].ln()).abs() < 1e-5);
        assert_eq!(
            sampler
                .top_logprobs()
                .iter()
                .map(|t| t.0)
                .collect::<Vec<_>>(),
            [1, 3]
        );
        assert!((f64::from(sampler.top_logprobs()[0].1) - want[1].ln()).abs() < 1e-5);
    }

    #[test]
    fn damaged_logits_and_wrong_options_are_named() {
        let mut s = sampler(SamplerOptions::default());
        let error = s.sample(&[0.0, f32::NAN, 0.0, 0.0, 0.0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.to_string().contains("token 1"), "{error}");
        assert_eq!(s.sample(&[0.0]).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(
            s.sample(&[f32::NEG_INFINITY; 5]).unwrap_err().kind(),
            ErrorKind::Argument
        );
        for options in [
            SamplerOptions {
                temperature: f32::NAN,
                ..SamplerOptions::default()
            },
            SamplerOptions {
                top_p: 0.0,
                ..SamplerOptions::default()
            },
            SamplerOptions {
                logit_bias: vec![(5, 0.0)],
                ..SamplerOptions::default()
            },
        ] {
            assert!(Sampler::new(5, options).is_err());
        }
    }
}
