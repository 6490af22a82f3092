//! A bundle that answers while it is evaluated.

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    bundle::Bundle,
    cli::{
        Failure,
        common::{ModelArgs, open_bundle},
    },
    config::Config,
    eval::data::Annotated,
    serve::Local,
};

/// Answers written at once.
const AT_ONCE: usize = 16;

/// A model, ready to be asked. There is no guard: what is measured is what the model says.
pub(super) struct Answering {
    config: Config,
    bundle: Bundle,
}

impl Answering {
    /// Loads the configured model. This may start the process anew, so that nothing is to be written before.
    pub(super) fn open(model: &ModelArgs) -> Result<Self, Failure> {
        let config = model.load(&[("--guard", "guard.mode", Some("off".into()))])?;
        Ok(Self { bundle: open_bundle(&config)?, config })
    }

    /// Asks about photographs (an empty prompt: a description), many at once, and hands out the answers in order.
    pub(super) fn each(
        self,
        asked: &[(&Annotated, &str)],
        mut take: impl FnMut(usize, String) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { config, bundle } = self;
        let bar = ProgressBar::new(asked.len() as u64)
            .with_style(ProgressStyle::with_template("answering {bar:40} {pos}/{len} {per_sec}, {eta} to go").map_err(Failure::failed)?);
        let runtime = tokio::runtime::Runtime::new().map_err(Failure::failed)?;
        runtime.block_on(async {
            let local = Local::start(config, bundle).map_err(Failure::failed)?;
            let done = async {
                let mut answers = stream::iter(asked.iter().map(|(image, prompt)| answer(&local, image, prompt))).buffered(AT_ONCE);
                let mut number = 0;
                while let Some(answer) = answers.next().await {
                    take(number, answer?)?;
                    number += 1;
                    bar.inc(1);
                }
                Ok(())
            }
            .await;
            bar.finish_and_clear();
            local.stop().await;
            done
        })
    }

    /// [`Self::each`], gathered.
    pub(super) fn all(self, asked: &[(&Annotated, &str)]) -> Result<Vec<String>, Failure> {
        let mut answers = Vec::with_capacity(asked.len());
        self.each(asked, |_, answer| {
            answers.push(answer);
            Ok(())
        })?;
        Ok(answers)
    }
}

async fn answer(local: &Local, image: &Annotated, prompt: &str) -> Result<String, Failure> {
    let photo = image.photo.as_ref().ok_or_else(|| Failure::Misused(format!("there is no photograph for '{}'", image.name())))?;
    let failed = |e: String| Failure::Failed(format!("{}: {e}", photo.display()));
    let file = std::fs::read(photo).map_err(|e| failed(e.to_string()))?;
    let answer = local.chat(&local.request(&file, prompt)).await.map_err(failed)?;
    let text = answer["choices"][0]["message"]["content"].as_str();
    text.map(str::to_owned).ok_or_else(|| failed("the answer has no text".into()))
}
