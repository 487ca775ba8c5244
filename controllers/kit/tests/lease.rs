//! Elections on a real server.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use apiserver::testing::TestServer;
use k8s_openapi::api::coordination::v1::Lease;
use kit::{
    Player, RealClock, Stage,
    lease::{BUILT_IN, CHART, Candidate, Election, Leadership, Rank, Timing},
    testing::{Playing, eventually},
};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(5);

/// Fifty times as fast as in life.
const FAST: Timing = Timing {
    duration: Duration::from_millis(300),
    give_up: Duration::from_millis(200),
    renew: Duration::from_millis(80),
    claim: Duration::from_millis(40),
    claim_void: Duration::from_millis(120),
};

struct Standing {
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn stand(client: &Client, identity: &str, priority: u32) -> Standing {
    let (leadership, seen) = watch::channel(Leadership::Unknown);
    let shutdown = CancellationToken::new();
    let rank = Rank { priority, version: "1.0.0".into() };
    let election = Election {
        client: client.clone(),
        namespace: "kube-system".into(),
        name: "demo".into(),
        me: Candidate { identity: identity.into(), rank: Some(rank) },
        timing: FAST,
        finish_within: SOON,
        clock: RealClock::new(),
        leadership,
    };
    let stop = shutdown.clone();
    let task = tokio::spawn(async move {
        let play = |stop: CancellationToken| -> kit::Run {
            Box::pin(async move {
                stop.cancelled().await;
                Ok(())
            })
        };
        election.run(stop, play).await.unwrap();
    });
    Standing { leadership: seen, shutdown, task }
}

impl Standing {
    async fn leads(&self) {
        let mut leadership = self.leadership.clone();
        let leads = leadership.wait_for(|now| *now == Leadership::Leading);
        tokio::time::timeout(SOON, leads).await.expect("does not lead").unwrap();
    }

    async fn stands_by(&self) {
        let mut leadership = self.leadership.clone();
        let waits = leadership.wait_for(|now| matches!(now, Leadership::Standby { .. }));
        tokio::time::timeout(SOON, waits).await.expect("does not stand by").unwrap();
    }
}

#[tokio::test]
async fn the_better_one_takes_over_and_gives_back() {
    let server = TestServer::start().await.unwrap();
    let built_in = stand(&server.client(), "built-in", BUILT_IN);
    built_in.leads().await;
    let chart = stand(&server.client(), "chart", CHART);
    chart.leads().await;
    built_in.stands_by().await;
    chart.shutdown.cancel();
    chart.task.await.unwrap();
    built_in.leads().await;
}

#[tokio::test]
async fn a_killed_leader_is_replaced_when_its_lease_expires() {
    let server = TestServer::start().await.unwrap();
    let first = stand(&server.client(), "first", BUILT_IN);
    first.leads().await;
    let second = stand(&server.client(), "second", BUILT_IN);
    second.stands_by().await;
    first.task.abort();
    second.leads().await;
    let leases: Api<Lease> = Api::namespaced(server.client(), "kube-system");
    let spec = leases.get("demo").await.unwrap().spec.unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_transitions),
        (Some("second"), Some(1))
    );
}

#[tokio::test]
async fn the_same_identity_goes_on_at_once() {
    let server = TestServer::start().await.unwrap();
    let first = stand(&server.client(), "same", BUILT_IN);
    first.leads().await;
    first.task.abort();
    let again = stand(&server.client(), "same", BUILT_IN);
    tokio::time::timeout(FAST.duration / 2, again.leads()).await.expect("waited for its own lease");
}

#[tokio::test]
async fn a_challenger_that_dies_while_it_waits_is_forgotten() {
    let server = TestServer::start().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(server.client(), "kube-system");
    let built_in = stand(&server.client(), "built-in", BUILT_IN);
    built_in.leads().await;
    let claim = serde_json::json!({ "metadata": { "annotations": {
        "improv.dev/claim": r#"{"identity":"ghost","rank":"10/9.9.9"}"#
    }}});
    let patch = kube::api::Patch::Merge(claim);
    leases.patch("demo", &kube::api::PatchParams::default(), &patch).await.unwrap();
    built_in.stands_by().await;
    built_in.leads().await;
}

static DEMO: Player = Player::new("demo", "1.2.3", |stage: Stage| {
    Box::pin(async move {
        stage.metrics.reconciled(Duration::from_millis(1), None);
        stage.shutdown.cancelled().await;
        Ok(())
    })
});

#[tokio::test]
async fn a_player_tells_about_itself() {
    let crd = serde_json::to_string(&kit::component::crd()).unwrap();
    let server = TestServer::builder().install_crds(crd).start().await.unwrap();
    let components: Api<kit::component::Component> = Api::all(server.client());
    let playing = Playing::start(&DEMO, server.client(), "here");
    let told = async |ready| {
        let status =
            components.get("demo").await.map_err(|e| e.to_string())?.status.unwrap_or_default();
        if status.ready == ready { Ok(status) } else { Err(format!("{status:?}")) }
    };
    let status = eventually(SOON, || told(true)).await;
    assert_eq!((status.version.as_str(), status.leader.as_str()), ("1.2.3", "here"));
    playing.stop().await.unwrap();
    eventually(SOON, || told(false)).await;
}
