//! Agents: leases that move, end and are taken back.

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_message::Message as FromAgent;
use pgconvoy_proto::v1::leader_message::Message as ToAgent;
use pgconvoy_proto::v1::unit_report::Body;
use pgconvoy_proto::v1::work::Kind;
use tonic::Code;

use super::script::{Agent, hello, is_copy, kind, script};
use super::world::{Node, request};

async fn agents(node: &Node) -> Vec<v1::Agent> {
    let listed = node.agents().list_agents(v1::ListAgentsRequest {}).await.unwrap();
    listed.into_inner().agents
}

#[tokio::test]
async fn the_units_of_a_silent_agent_go_to_another_one() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut first = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let lost = first.work_until(is_copy).await;
    // From here on `a` is not heard any more, though its stream stays open.
    let mut second = Agent::connect(node.handle.channel(), hello("b", 1)).await.unwrap();
    let moved = second.lease().await;
    assert_eq!((moved.unit, moved.epoch), (lost.unit, lost.epoch + 1));
    let status = |agents: &[v1::Agent], id: &str| {
        agents.iter().find(|agent| agent.id == id).map(|agent| agent.status.clone())
    };
    let listed = agents(&node).await;
    assert_eq!(status(&listed, "a").as_deref(), Some("lost"));
    assert_eq!(status(&listed, "b").as_deref(), Some("alive"));

    // What the first one still says is too late.
    let again = v1::Hello { running: first.running.clone(), ..hello("a", 1) };
    let mut first = Agent::connect(node.handle.channel(), again).await.unwrap();
    let revoked = first.wait(|said| match said {
        ToAgent::Revoke(revoke) => Some((revoke.unit, revoke.epoch)),
        _ => None,
    });
    assert_eq!(revoked.await.unwrap(), (lost.unit, lost.epoch));
    let late = script(kind(&lost)).pop().unwrap();
    assert!(!first.report(&lost, late).await);
    second.work(&moved).await;
    assert_eq!(node.task(&task).await.tables[0].shards_done, 1);
}

#[tokio::test]
async fn a_new_life_of_an_agent_frees_what_the_old_one_held() {
    let node = Node::embedded().await;
    node.create(request("shop")).await;
    let mut first = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let held = first.work_until(is_copy).await;
    let mut second = Agent::connect(node.handle.channel(), hello("a", 2)).await.unwrap();
    let again = second.lease().await;
    assert_eq!((again.unit, again.epoch), (held.unit, held.epoch + 1));
    // The old stream is closed, so nothing is answered to the old life any more.
    assert!(first.wait(|_| None::<()>).await.is_err());
    // And the old life does not come back, nor does its knocking disturb the new one.
    let zombie = Agent::connect(node.handle.channel(), hello("a", 1)).await;
    assert_eq!(zombie.err().unwrap().code(), Code::FailedPrecondition);
    second.work(&again).await;
}

#[tokio::test]
async fn a_hello_whose_process_is_dead_takes_nothing_from_the_one_that_followed_it() {
    let node = Node::embedded().await;
    node.create(request("shop")).await;
    // It said hello, was never registered, and is not there to answer.
    let dead = Agent::knock(node.handle.channel(), hello("a", 1)).await.unwrap();
    let mut second = Agent::connect(node.handle.channel(), hello("a", 2)).await.unwrap();
    let held = second.work_until(is_copy).await;
    let again = Agent::knock(node.handle.channel(), hello("a", 1)).await.unwrap();
    drop((dead, again));
    second.work(&held).await;
}

#[tokio::test]
async fn an_answer_that_is_read_late_takes_nothing_either() {
    let node = Node::embedded().await;
    node.create(request("shop")).await;
    let mut late = Agent::knock(node.handle.channel(), hello("a", 1)).await.unwrap();
    let mut second = Agent::connect(node.handle.channel(), hello("a", 2)).await.unwrap();
    let held = second.work_until(is_copy).await;
    late.say(FromAgent::Present(v1::Present {})).await;
    assert_eq!(late.next().await.unwrap_err().code(), Code::Unavailable);
    second.work(&held).await;
}

#[tokio::test]
async fn a_pause_takes_leases_back_and_a_resume_gives_them_again() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let held = agent.work_until(is_copy).await;
    node.tasks()
        .pause_task(v1::PauseTaskRequest { task: task.clone(), ..Default::default() })
        .await
        .unwrap();
    let revoked = agent.wait(|said| match said {
        ToAgent::Revoke(revoke) => Some(revoke.unit),
        _ => None,
    });
    assert_eq!(revoked.await.unwrap(), held.unit);
    assert!(agent.report(&held, Body::Released(v1::Released {})).await);
    let resume = v1::ResumeTaskRequest { task, ..Default::default() };
    node.tasks().resume_task(resume).await.unwrap();
    let again = agent.lease().await;
    assert_eq!((again.unit, again.epoch), (held.unit, held.epoch + 1));
}

#[tokio::test]
async fn a_revoked_unit_that_never_reached_its_agent_is_free_again() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let lost = agent.work_until(is_copy).await;
    node.tasks()
        .pause_task(v1::PauseTaskRequest { task: task.clone(), ..Default::default() })
        .await
        .unwrap();
    // It comes back without the unit, as if the lease had been lost with the stream.
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let resume = v1::ResumeTaskRequest { task, ..Default::default() };
    node.tasks().resume_task(resume).await.unwrap();
    let again = agent.lease().await;
    assert_eq!(again.unit, lost.unit);
}

#[tokio::test]
async fn a_draining_agent_gets_nothing_new() {
    let node = Node::embedded().await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let drain = v1::DrainAgentRequest { agent_id: "a".to_owned() };
    assert!(node.agents().drain_agent(drain.clone()).await.unwrap().into_inner().changed);
    assert!(!node.agents().drain_agent(drain).await.unwrap().into_inner().changed);
    agent.wait(|said| matches!(said, ToAgent::Drain(_)).then_some(())).await.unwrap();
    node.create(request("shop")).await;
    let seq = agent.beat().await;
    agent
        .wait(|said| match said {
            ToAgent::HeartbeatAck(ack) if ack.seq >= seq => Some(()),
            ToAgent::Lease(lease) => panic!("a draining agent gets {lease:?}"),
            _ => None,
        })
        .await
        .unwrap();
    let undrain = v1::UndrainAgentRequest { agent_id: "a".to_owned() };
    node.agents().undrain_agent(undrain).await.unwrap();
    assert!(matches!(kind(&agent.lease().await), Kind::Precheck(_)));
}

#[tokio::test]
async fn a_failure_that_trying_again_cannot_mend_stops_the_task() {
    let node = Node::embedded().await;
    let task = node.create(request("shop")).await;
    let mut agent = Agent::connect(node.handle.channel(), hello("a", 1)).await.unwrap();
    let copy = agent.work_until(is_copy).await;
    let failure = v1::Failure {
        class: v1::FailureClass::Definite.into(),
        code: "wrong_password".to_owned(),
        message: "password authentication failed".to_owned(),
        ..v1::Failure::default()
    };
    assert!(agent.report(&copy, Body::Failed(failure)).await);
    let failed = node.until(&task, |task| task.status() == v1::TaskStatus::Failed).await;
    assert_eq!(failed.cause.unwrap().code, "wrong_password");
}
