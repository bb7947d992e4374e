//! Checks of the rows that a submission writes to the harness's schema.

use tokio_postgres::Client;
use uuid::Uuid;

use super::expected::{self, ModelMetrics};
use super::harness_run::HarnessRun;
use crate::error::{Error, ErrorContext, Result};

/// Prints the rows of each run and compares them with its result.
pub(super) async fn check(client: &Client, runs: &[HarnessRun]) -> Result<()> {
    for run in runs {
        let id: Uuid = run.id().parse().map_err(|error| Error::Failed(format!("{}: {error}", run.id())))?;
        check_status(client, run, id).await?;
        check_metrics(client, run, id).await?;
        check_hardware(client, run, id).await?;
    }
    Ok(())
}

async fn check_status(client: &Client, run: &HarnessRun, id: Uuid) -> Result<()> {
    let sql = "SELECT run_status, runner_id, status, attempt_count \
               FROM runs JOIN run_queue USING (run_id) WHERE run_id = $1";
    let row = client.query_one(sql, &[&id]).await.context("read the run's row")?;
    let run_status: Option<&str> = row.get(0);
    let (runner, queue_status): (Option<&str>, &str) = (row.get(1), row.get(2));
    let (run_status_text, runner_text) = (run_status.unwrap_or("–"), runner.unwrap_or("–"));
    println!("  run {}: {run_status_text}, by {runner_text}; queue {queue_status}", run.id());
    check_equal(&run_status, &run.result["run_status"].as_str(), "runs.run_status")?;
    check_equal(&runner, &Some(super::RUNNER_ID), "runs.runner_id")?;
    check_equal(&queue_status, &"COMPLETE", "run_queue.status")
}

async fn check_metrics(client: &Client, run: &HarnessRun, id: Uuid) -> Result<()> {
    let sql = "SELECT regexp_replace(p.file_path, '^.*/|\\.md$', '', 'g'), md.name, x.score, \
                      x.failure_reason \
               FROM run_model_metrics x JOIN prompts p USING (prompt_id) JOIN models md USING (model_id) \
               WHERE x.run_id = $1 ORDER BY 1, 2";
    let rows = client.query(sql, &[&id]).await.context("read the metrics")?;
    let found: Vec<ModelMetrics> = rows
        .iter()
        .map(|row| ModelMetrics {
            prompt: row.get(0),
            model: row.get(1),
            score: row.get(2),
            failure: row.get(3),
        })
        .collect();
    for ModelMetrics { prompt, model, score, failure } in &found {
        let score = score.map_or("–".to_owned(), |score| format!("{score:.4}"));
        let failure =
            failure.as_deref().map(|code| format!(", most frequent failure {code}")).unwrap_or_default();
        println!("    {prompt} × {model}: score {score}{failure}");
    }
    let expected = expected::model_metrics(run);
    let agree = found.len() == expected.len()
        && found.iter().zip(&expected).all(|(found, expected)| found.is_close_to(expected));
    match agree {
        true => Ok(()),
        false => Err(Error::Failed(format!("run_model_metrics: {found:?} instead of {expected:?}"))),
    }
}

async fn check_hardware(client: &Client, run: &HarnessRun, id: Uuid) -> Result<()> {
    let sql = "SELECT s.cpu_model, g.gpu_model, g.vram_mb, h.power_limit_w, h.peak_vram_mb \
               FROM run_hardware_metrics h \
               LEFT JOIN system_hardware s USING (system_hardware_id) \
               LEFT JOIN gpu_hardware g USING (gpu_hardware_id) WHERE run_id = $1";
    let row = client.query_one(sql, &[&id]).await.context("read the hardware's row")?;
    let (cpu, gpu): (Option<&str>, Option<&str>) = (row.get(0), row.get(1));
    let (vram, power): (Option<i32>, Option<f64>) = (row.get(2), row.get(3));
    let peak: Option<i32> = row.get(4);
    println!(
        "    on {} with {}; peak VRAM {} MB",
        gpu.unwrap_or("–"),
        cpu.unwrap_or("–"),
        format_or_dash(peak)
    );
    let hardware = &run.result["hardware"];
    check_equal(&cpu, &hardware["cpu_model"].as_str(), "system_hardware.cpu_model")?;
    check_equal(&gpu, &hardware["gpu_model"].as_str(), "gpu_hardware.gpu_model")?;
    check_equal(&vram.map(i64::from), &hardware["vram_mb"].as_i64(), "gpu_hardware.vram_mb")?;
    check_equal(&power, &hardware["power_limit_w"].as_f64(), "run_hardware_metrics.power_limit_w")?;
    let rounded_up = expected::peak_vram_mb(run).map(f64::ceil);
    check_equal(&peak.map(f64::from), &rounded_up, "run_hardware_metrics.peak_vram_mb")
}

fn format_or_dash(number: Option<i32>) -> String {
    number.map_or("–".to_owned(), |number| number.to_string())
}

fn check_equal<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, column: &str) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Failed(format!("{column}: {found:?} instead of {expected:?}"))),
    }
}
