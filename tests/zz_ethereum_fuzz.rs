//! temporary
mod entry {
    #[path = "../../fuzz/src/allowlist.rs"]
    pub mod allowlist;
    #[path = "../../fuzz/src/ethereum.rs"]
    pub mod ethereum;
}
#[test]
fn corpus_and_mutations() {
    let t = std::time::Instant::now();
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut rnd = move || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state };
    for f in std::fs::read_dir("fuzz/corpus/ethereum").unwrap() {
        let p = f.unwrap().path();
        let data = std::fs::read(&p).unwrap();
        println!("{p:?}");
        entry::ethereum::ethereum(&data);
        for _ in 0..100 {
            let mut d = data.clone();
            for _ in 0..(1 + rnd() % 3) {
                if d.is_empty() { break }
                let i = (rnd() as usize) % d.len();
                match rnd() % 4 { 0 => d[i] ^= 1 << (rnd() % 8), 1 => d[i] = rnd() as u8, 2 => d.truncate(i), _ => d.insert(i, rnd() as u8) }
            }
            entry::ethereum::ethereum(&d);
        }
    }
    println!("{:?}", t.elapsed());
}
