//! Playing in a test, on any server that hands out a `kube::Client`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef, Subject},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, InProcess, Player,
    lease::{BUILT_IN, CHART, Leadership},
    process::run_with_priority,
};

/// A player that plays until it is stopped, or killed by dropping this.
pub struct Playing {
    task: JoinHandle<Result<(), Error>>,
    shutdown: CancellationToken,
    leadership: watch::Receiver<Leadership>,
}

impl Playing {
    /// Starts `player` as the process named `identity`, through `client`, with a built-in one's rank.
    #[must_use]
    pub fn start(player: &'static Player, client: Client, identity: &str) -> Self {
        Self::start_ranked(player, InProcess::new(client, identity), BUILT_IN)
    }

    /// The same with the rank of a chart's instance.
    #[must_use]
    pub fn start_as_chart(player: &'static Player, client: Client, identity: &str) -> Self {
        Self::start_ranked(player, InProcess::new(client, identity), CHART)
    }

    /// Starts `player` with all that it gets, such as options or a stepped clock.
    #[must_use]
    pub fn start_with(player: &'static Player, with: InProcess) -> Self {
        Self::start_ranked(player, with, BUILT_IN)
    }

    fn start_ranked(player: &'static Player, with: InProcess, priority: u32) -> Self {
        let (sender, leadership) = watch::channel(Leadership::Unknown);
        let shutdown = CancellationToken::new();
        let task =
            tokio::spawn(run_with_priority(player, with, priority, sender, shutdown.clone()));
        Self { task, shutdown, leadership }
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.leadership.borrow() == Leadership::Leading
    }

    /// Asks it to stop, as SIGTERM does, and waits until it has released its Lease.
    ///
    /// # Errors
    /// The error that it ended with.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.shutdown.cancel();
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(source) => Err(Error::TaskPanicked { task: "player", source: Box::new(source) }),
        }
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Gives the player's service account the rights that it asks for, and nothing else; returns the
/// name of its user, as whom it then plays.
///
/// # Errors
/// What the server answered to `admin`.
pub async fn grant(admin: Client, player: &Player) -> Result<String, kube::Error> {
    let metadata = ObjectMeta { name: Some(player.name.to_owned()), ..ObjectMeta::default() };
    let role = ClusterRole {
        metadata: metadata.clone(),
        rules: Some(player.all_rules()),
        ..ClusterRole::default()
    };
    let binding = ClusterRoleBinding {
        metadata,
        role_ref: role_ref(player, "ClusterRole"),
        subjects: subjects(player),
    };
    let params = PostParams::default();
    Api::<ClusterRole>::all(admin.clone()).create(&params, &role).await?;
    Api::<ClusterRoleBinding>::all(admin.clone()).create(&params, &binding).await?;
    for (namespace, rules) in (player.namespaced_rules)() {
        let role = Role { metadata: role.metadata.clone(), rules: Some(rules) };
        let binding = RoleBinding {
            metadata: role.metadata.clone(),
            role_ref: role_ref(player, "Role"),
            subjects: subjects(player),
        };
        Api::<Role>::namespaced(admin.clone(), namespace).create(&params, &role).await?;
        let bindings = Api::<RoleBinding>::namespaced(admin.clone(), namespace);
        bindings.create(&params, &binding).await?;
    }
    Ok(format!("system:serviceaccount:kube-system:{}", player.name))
}

fn role_ref(player: &Player, kind: &str) -> RoleRef {
    RoleRef {
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        kind: kind.to_owned(),
        name: player.name.to_owned(),
    }
}

fn subjects(player: &Player) -> Option<Vec<Subject>> {
    Some(vec![Subject {
        kind: "ServiceAccount".to_owned(),
        name: player.name.to_owned(),
        namespace: Some("kube-system".to_owned()),
        ..Subject::default()
    }])
}

/// Gives a namespace the account without which no pod is taken, if it has none; the service-account
/// player does it otherwise.
///
/// # Errors
/// What the server answered to `admin`.
pub async fn equip(admin: Client, namespace: &str) -> Result<(), kube::Error> {
    let metadata = ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    let accounts = Api::<ServiceAccount>::namespaced(admin, namespace);
    match accounts.create(&PostParams::default(), &account).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

/// Checks that `folder` holds exactly `files`, such as those of [`crate::chart::Chart::files`]; with
/// `UPDATE` in the environment it makes that so first.
///
/// # Panics
/// If a file is missing, has another content, or is not one of them.
pub fn committed(folder: &Path, files: &BTreeMap<PathBuf, String>) {
    if std::env::var_os("UPDATE").is_some() {
        replace(folder, files)
            .unwrap_or_else(|error| panic!("write {}: {error}", folder.display()));
    }
    let mut found = BTreeMap::new();
    read(folder, Path::new(""), &mut found)
        .unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let differs = |path: &&PathBuf| found.get(*path) != files.get(*path);
    let paths: BTreeSet<&PathBuf> = files.keys().chain(found.keys()).filter(differs).collect();
    assert!(
        paths.is_empty(),
        "{}: run this test with UPDATE=1 and commit {paths:?}",
        folder.display()
    );
}

fn replace(folder: &Path, files: &BTreeMap<PathBuf, String>) -> io::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    for (path, text) in files {
        let path = folder.join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

fn read(folder: &Path, below: &Path, found: &mut BTreeMap<PathBuf, String>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            read(folder, &path, found)?;
        } else {
            found.insert(path, std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(())
}

/// Asks again and again until the answer is what the test waits for.
///
/// # Panics
/// After `deadline`, with the last answer that was not: what `Err` says.
pub async fn eventually<T, E: Display>(
    deadline: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let give_up = Instant::now() + deadline;
    let mut last = "no answer".to_owned();
    loop {
        match tokio::time::timeout_at(give_up, ask()).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(not_yet)) => last = not_yet.to_string(),
            Err(_) => panic!("still after {deadline:?}: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
