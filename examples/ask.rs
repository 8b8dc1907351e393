//! Asks a model folder one question: `cargo run --release --example ask -- MODEL_FOLDER "translate English to German: Hello"`.

use t5_wgpu::{Error, Result, T5};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err(Error::Input("two arguments are needed: MODEL_FOLDER TEXT".into()));
    };
    let t5 = T5::load(folder).wait()?;
    println!("{}", t5.generate(text).wait()?);
    Ok(())
}
