//! The demo is every reader's first impression: it must end well.

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_works() {
    client::demo::run(false)
        .await
        .expect("each step does what it should");
}
