//! Random nights that are consistent in themselves: times in order, stages that add up, gaps as real devices leave them.

use rand::Rng;
use rand::seq::IndexedRandom;
use skimstone::sleep::{Clock, Night, Stages, Week, Window};

/// A sum of three uniform numbers: bell-shaped around the middle of `low..=high`, without a tail to clip.
fn bell(rng: &mut impl Rng, low: u32, high: u32) -> u32 {
    let draw = |rng: &mut dyn FnMut() -> f64| rng();
    let mut uniform = || rng.random::<f64>();
    let mean = (draw(&mut uniform) + draw(&mut uniform) + draw(&mut uniform)) / 3.0;
    low + (mean * f64::from(high - low + 1)) as u32
}

/// What kind of device recorded a night: decides which fields there are at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recorder {
    /// A research device: everything.
    All,
    /// A sleep diary: times and awakenings.
    Diary,
    /// A wearable: times, awakenings and stages.
    Wearable,
    /// A tracker that keeps bedtimes, totals and stages.
    Tracker,
    /// Totals and stages alone.
    Stages,
    /// Minutes asleep and in bed alone.
    Totals,
    /// Minutes asleep alone.
    Asleep,
    /// An alarm clock: bedtime and rise.
    Alarm,
}

impl Recorder {
    /// Every recorder and how often it is drawn, against the others.
    const ALL: [(Recorder, u32); 8] = [
        (Recorder::All, 3),
        (Recorder::Diary, 5),
        (Recorder::Wearable, 4),
        (Recorder::Tracker, 4),
        (Recorder::Stages, 2),
        (Recorder::Totals, 3),
        (Recorder::Asleep, 2),
        (Recorder::Alarm, 1),
    ];

    fn draw(rng: &mut impl Rng) -> Recorder {
        let weighted = Self::ALL.choose_weighted(rng, |(_, weight)| *weight);
        weighted.expect("the weights are above zero").0
    }

    fn has(self, recorders: &[Recorder]) -> bool {
        self == Recorder::All || recorders.contains(&self)
    }

    /// Removes what the device does not record.
    fn restrict(self, night: &mut Night) {
        use Recorder::{Alarm, Asleep, Diary, Stages, Totals, Tracker, Wearable};
        if !self.has(&[Diary, Wearable, Tracker, Alarm]) {
            (night.bedtime, night.rise) = (None, None);
        }
        if !self.has(&[Diary, Wearable]) {
            (night.lights_out, night.sleep_onset, night.final_wake) = (None, None, None);
            night.awakenings = None;
        }
        if !self.has(&[Wearable, Tracker, Stages]) {
            night.stages = None;
        }
        if !self.has(&[Tracker, Stages, Totals, Asleep]) {
            night.minutes_asleep = None;
        }
        if !self.has(&[Tracker, Stages, Totals]) {
            night.minutes_in_bed = None;
        }
        if self == Diary {
            night.hrv = None;
        }
    }
}

/// A night with gaps. Nearly half of the nights come with a week.
pub fn night(rng: &mut impl Rng) -> Night {
    let full = full_night(rng);
    let with_week = rng.random_bool(0.45);
    let mut night = Night {
        week: with_week.then(|| week(rng)),
        ..full
    };
    Recorder::draw(rng).restrict(&mut night);
    // Some people and devices fill in everything, most leave something out, some most of it.
    let loss = [0.0, 0.15, 0.15, 0.55][rng.random_range(0..4)];
    drop_some(&mut night, loss, rng);
    night
}

/// Drops each field that a device may fail to fill in, with probability `loss`; what only some devices have, more often.
fn drop_some(night: &mut Night, loss: f64, rng: &mut impl Rng) {
    let mut gone = |p: f64| rng.random_bool(p);
    if gone(loss) {
        night.age = None;
    }
    if gone(loss * 0.6) {
        night.bedtime = None;
    }
    if gone(loss) {
        night.lights_out = None;
    }
    if gone(loss * 0.4) {
        night.sleep_onset = None;
    }
    if gone(loss * 0.6) {
        night.awakenings = None;
    }
    if gone(loss * 0.6) {
        night.rise = None;
    }
    if gone(loss * 1.5) {
        night.resting_heart_rate = None;
    }
    if gone(loss * 1.7) {
        night.hrv = None;
    }
    if gone(loss * 1.5) {
        night.last_caffeine = None;
    }
}

fn full_night(rng: &mut impl Rng) -> Night {
    let bedtime = bell(rng, 120, 600).max(1); // 20:00 to 04:00
    let lights_out = bedtime + rng.random_range(0..=45);
    let latency = if rng.random_bool(0.75) {
        rng.random_range(2..=35)
    } else {
        rng.random_range(30..=95)
    };
    let onset = lights_out + latency;
    let period = if rng.random_bool(0.1) {
        rng.random_range(45..=760)
    } else {
        bell(rng, 200, 640)
    };
    let wake = (onset + period).min(1300);
    let period = wake - onset;
    let awakenings: Vec<u32> = (0..rng.random_range(0..=5))
        .map(|_| {
            if rng.random_bool(0.8) {
                rng.random_range(1..=25)
            } else {
                rng.random_range(20..=70)
            }
        })
        .collect();
    let awake: u32 = awakenings.iter().sum();
    let (awakenings, awake) = if awake * 2 > period {
        (Vec::new(), 0)
    } else {
        (awakenings, awake)
    };
    let rise = (wake + rng.random_range(0..=60)).min(1400);
    let asleep = period - awake;
    // Surveys report shares that no sleep laboratory would: the student has to read those, too.
    let odd = rng.random_bool(0.2);
    let deep = asleep
        * if odd {
            rng.random_range(1..=75)
        } else {
            rng.random_range(5..=28)
        }
        / 100;
    let rem = asleep
        * if odd {
            rng.random_range(1..=24)
        } else {
            rng.random_range(8..=33)
        }
        / 100;
    let fast = rng.random_bool(0.06);
    Night {
        age: Some(match rng.random_range(0..20) {
            0..2 => rng.random_range(5..=13),
            2..4 => rng.random_range(14..=17),
            _ => rng.random_range(18..=88),
        }),
        bedtime: Some(Clock::from_evening(bedtime)),
        lights_out: Some(Clock::from_evening(lights_out)),
        sleep_onset: Some(Clock::from_evening(onset)),
        awakenings: Some(awakenings),
        final_wake: Some(Clock::from_evening(wake)),
        rise: Some(Clock::from_evening(rise)),
        minutes_asleep: Some(asleep),
        minutes_in_bed: Some(rise - bedtime),
        stages: Some(Stages {
            light: asleep - deep - rem,
            deep,
            rem,
        }),
        resting_heart_rate: Some(if fast {
            rng.random_range(98..=124)
        } else {
            bell(rng, 42, 92)
        }),
        hrv: Some(bell(rng, 12, 120)),
        last_caffeine: Some(Clock::from_minutes(rng.random_range(7 * 60..=21 * 60 + 30))),
        week: None,
    }
}

fn week(rng: &mut impl Rng) -> Week {
    let usual = bell(rng, 150, 520);
    let spread = rng.random_range(10..=110);
    let base = bell(rng, 300, 540);
    let vary = rng.random_range(20..=120);
    let around = |rng: &mut dyn FnMut(u32) -> u32, middle: u32, width: u32| {
        (middle + rng(2 * width + 1)).saturating_sub(width).max(1)
    };
    let mut draw = |n: u32| rng.random_range(0..n);
    let bedtimes: Vec<Clock> = (0..7)
        .map(|_| Clock::from_evening(around(&mut draw, usual, spread)))
        .collect();
    let minutes_asleep: Vec<u32> = (0..7).map(|_| around(&mut draw, base, vary)).collect();
    let mut window = |shift: u32| {
        let onset = around(&mut draw, usual, 40) + 20 + shift;
        let length = around(&mut draw, base, 60) + 30;
        Window {
            sleep_onset: Clock::from_evening(onset),
            final_wake: Clock::from_evening((onset + length).min(1350)),
        }
    };
    let work = window(0);
    let shift = rng.random_range(0..=150);
    let free = Window {
        sleep_onset: Clock::from_evening(work.sleep_onset.evening_minutes() + shift),
        final_wake: Clock::from_evening(
            (work.final_wake.evening_minutes() + rng.random_range(0..=210)).min(1380),
        ),
    };
    let (has_times, has_sleep, has_windows) = [
        (true, true, true),
        (true, true, false),
        (false, true, true),
        (true, false, true),
        (false, true, false),
        (true, false, false),
    ][rng.random_range(0..6)];
    Week {
        bedtimes: if has_times { bedtimes } else { Vec::new() },
        minutes_asleep: if has_sleep {
            minutes_asleep
        } else {
            Vec::new()
        },
        work_nights: has_windows.then_some(work),
        free_nights: has_windows.then_some(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn every_night_is_valid_and_varied() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut weeks = 0;
        for _ in 0..3000 {
            let night = night(&mut rng);
            let text = serde_json::to_string(&night).expect("serialises");
            assert_eq!(
                Night::from_json(&text).unwrap_or_else(|e| panic!("{e}: {text}")),
                night
            );
            weeks += usize::from(night.week.is_some());
        }
        assert!((1200..1500).contains(&weeks), "{weeks}");
    }
}
