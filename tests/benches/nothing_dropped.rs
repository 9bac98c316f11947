//! What happens to requests while everything around them changes, at full size.
//!
//!     cargo build --release --workspace --bins && cargo bench -p leno-tests --bench nothing_dropped [-- PART …]
//!
//! Parts: `changes` (100 000 numbered requests over 50 pushes, 10 certificate rotations and 5 rolling restarts), `kills` (the
//! control plane killed -9 in the middle of pushes 100 times), `upgrades` (20 of each sidecar). All of them unless some are
//! named. Callers never try again; what arrived is counted in the apps' own book. Each part prints a row of a table, and the
//! command ends with 1 where something was lost, doubled or too slow. `LENO_DROP_REQUESTS`, `_KILLS` and `_UPGRADES` make it
//! another size, `LENO_DROP_SEED` repeats one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use leno_tests::drills::{self, Changes, Report};
use leno_tests::scene::Scene;

/// Threads of each sidecar.
const WORKERS: usize = 2;
/// Within which everybody is to be up to date once the control plane is back.
const RECONVERGED: Duration = Duration::from_secs(2);
/// Requests between two upgrades, at least.
const MEANWHILE: usize = 200;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let named: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let is_well = runtime.expect("a runtime starts").block_on(async {
        println!("| what | requests | lost, doubled or wrong | handed back unsent | took |");
        println!("|---|---|---|---|---|");
        let mut is_well = true;
        if is_wanted("changes") {
            is_well &= changes().await;
        }
        if is_wanted("kills") {
            is_well &= kills().await;
        }
        if is_wanted("upgrades") {
            is_well &= upgrades().await;
        }
        is_well
    });
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

async fn changes() -> bool {
    let much = Changes { requests: number("LENO_DROP_REQUESTS", 100_000), pushes: 50, rotations: 10, restarts: 5 };
    let mut scene = Scene::start(3, WORKERS).await;
    let began = Instant::now();
    let report = drills::changes(&mut scene, much).await;
    row("50 pushes, 10 certificate rotations, 5 rolling restarts of 3 instances", &report, began)
}

async fn kills() -> bool {
    let (kills, seed) = (number("LENO_DROP_KILLS", 100), number("LENO_DROP_SEED", 20) as u64);
    let mut scene = Scene::start(3, WORKERS).await;
    let began = Instant::now();
    let report = drills::kills(&mut scene, kills, seed).await;
    let mut sorted = report.reconverged.clone();
    sorted.sort();
    let half = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let what = format!(
        "control plane killed -9 in the middle of pushes {kills} times: up to date again within {:.2?} (half of the times \
         {half:.2?}); seed {seed}",
        report.slowest()
    );
    row(&what, &report, began) & (report.slowest() <= RECONVERGED)
}

async fn upgrades() -> bool {
    let upgrades = number("LENO_DROP_UPGRADES", 20);
    let mut scene = Scene::start(2, WORKERS).await;
    let began = Instant::now();
    let report = drills::upgrades(&mut scene, upgrades, MEANWHILE).await;
    let what = format!(
        "{upgrades} upgrades of each of 3 sidecars, a gRPC stream, a WebSocket and 2 downloads across all of them; the slowest \
         took {:.2?}",
        report.slowest()
    );
    row(&what, &report, began)
}

/// Prints the row, and what was wrong; whether nothing was.
fn row(what: &str, report: &Report, began: Instant) -> bool {
    let (answered, wrong) = (report.outcome.answered.len(), report.complaints.len());
    println!("| {what} | {answered} | {wrong} | {} | {:.0?} |", report.outcome.unsent, began.elapsed());
    for complaint in report.complaints.iter().take(20) {
        println!("{complaint}");
    }
    wrong == 0 && answered > 0
}
