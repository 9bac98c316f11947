//! `leno agent`: the identity of a workload for a real Envoy.
//!
//! It reads the bootstrap of a proxy and does of it what is about identity: it obtains the certificate and keeps it
//! fresh, by the very code of the proxy, and follows the roots that the control plane distributes. What comes out are two
//! files of secrets (SDS), `default.yaml` and `ROOTCA.yaml`, that Envoy watches:
//!
//! ```yaml
//! common_tls_context:
//!   tls_certificate_sds_secret_configs:
//!   - {name: default, sds_config: {path_config_source: {path: sds/default.yaml}, resource_api_version: V3}}
//! ```
//!
//! Each file is replaced as a whole by a rename, which is what Envoy watches for; the one with the key can be read by
//! its owner alone.

mod roots;
mod sds;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use leno_proxy::bootstrap::{Bootstrap, Flags, Source};
use leno_proxy::handover::Ownership;
use leno_proxy::identity::{Issued, Keyring, Origin, start};
use leno_proxy::logging;
use leno_proxy::process::forbid_dumps;
use leno_proxy::state::disk;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::info;

use super::failure::Failure;
use super::serve::{start_log, told_to_stop};

/// `leno agent`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Directory for the files that Envoy watches: default.yaml (with the key) and ROOTCA.yaml
    #[arg(long, value_name = "DIR", env = "LENO_SDS")]
    sds: PathBuf,
    #[command(flatten)]
    bootstrap: Flags,
    #[command(flatten)]
    logging: logging::LogFlags,
}

/// Keeps the files fresh until SIGTERM or SIGINT.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let bootstrap = Bootstrap::load(arguments.bootstrap).map_err(Failure::usage)?;
    if Origin::of(&bootstrap) == Origin::None {
        return Err(Failure::usage(anyhow!(
            "there is no identity to keep: the bootstrap needs the control plane's https:// address with root and token, \
             or the files of identity"
        )));
    }
    start_log(&arguments.logging);
    if !bootstrap.dumpable {
        forbid_dumps();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(keep(bootstrap, arguments.sds))?;
    Ok(ExitCode::SUCCESS)
}

async fn keep(bootstrap: Bootstrap, directory: PathBuf) -> anyhow::Result<()> {
    let (keyring, mut issued) = Keyring::with_copies(Origin::of(&bootstrap));
    let keyring = Arc::new(keyring);
    let (stop, stopped) = watch::channel(false);
    if let Source::ControlPlane(plane) = &bootstrap.source {
        let access = start::access(plane, &keyring);
        tokio::task::spawn_local(roots::follow(access, bootstrap.node.clone(), Arc::clone(&keyring), stopped.clone()));
    }
    let kept = tokio::task::spawn_local(start::keep(bootstrap, Ownership::default(), Arc::clone(&keyring), stopped));
    let mut changes = keyring.identity().changes();
    let mut asked_to_stop = std::pin::pin!(told_to_stop());
    loop {
        tokio::select! {
            signal = &mut asked_to_stop => {
                info!("{} received; the files stay as they are", signal?);
                break;
            }
            // Neither sender goes before the keyring does.
            _ = changes.changed() => {}
            _ = issued.changed() => {}
        }
        let latest = issued.borrow_and_update().clone();
        if let Some(issued) = latest {
            write(&directory, &keyring, issued).await?;
        }
    }
    stop.send_replace(true);
    kept.await.context("the task that keeps the certificate failed")
}

/// The roots first: a peer that is met with the new certificate should be known.
async fn write(directory: &Path, keyring: &Keyring, issued: Arc<Issued>) -> anyhow::Result<()> {
    let trust = keyring.identity().now().trust;
    let directory = directory.to_owned();
    spawn_blocking(move || {
        let files = [(sds::ROOTS_FILE, sds::roots(&trust)), (sds::OWN_FILE, sds::own_certificate(&issued))];
        for (name, text) in files {
            let path = directory.join(name);
            if std::fs::read(&path).is_ok_and(|current| current == text.as_bytes()) {
                continue;
            }
            disk::replace(&directory, &path, text.as_bytes()).with_context(|| {
                format!("cannot write {}; check the directory's owner and free space", path.display())
            })?;
            info!("{} is new", path.display());
        }
        Ok(())
    })
    .await
    .context("the thread that writes the files failed")?
}
