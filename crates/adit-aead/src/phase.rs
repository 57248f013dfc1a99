use crate::stream::*; use crate::avx512::Avx512; use std::hint::black_box; use std::{println, vec::Vec, vec};
fn time(name:&str, mut f: impl FnMut()) { let mut best=f64::MAX; for _ in 0..30 { let t=std::time::Instant::now(); for _ in 0..2000 { f(); } best=best.min(t.elapsed().as_secs_f64()/2000.0);} println!("{name}: {:.1} ns = {:.0} cycles@2.9", best*1e9, best*2.9e9); }
#[test] fn phases(){
 let v=Avx512::detect().unwrap(); let key=[7u8;32]; let mut ks=KeyStream::new();
 for n in [1usize,2,8,16] { let segs:Vec<Segment>=(0..n).map(|i|Segment{key:&key,nonce:[0,i as u32,0],counter:0,blocks:16/n,packet:i}).collect(); time(&std::format!("key_stream {n} segments"),||v.key_stream(black_box(&segs),black_box(&mut ks))); }
 for n in [1usize,8] { let segs:Vec<Segment>=(0..n).map(|i|Segment{key:&key,nonce:[0,i as u32,0],counter:0,blocks:8/n,packet:i}).collect(); time(&std::format!("half key_stream {n} segments"),||v.key_stream(black_box(&segs),black_box(&mut ks))); }
 for len in [0usize,64,1440] { let mut texts:Vec<Vec<u8>>=(0..8).map(|_|vec![1u8;len]).collect();
  let kk=[[3u8;32];8]; let mut tags=[[0u8;16];8];
  { let macs:Vec<Mac>=texts.iter().zip(&kk).map(|(t,k)|Mac{key:k,text:t,last:[1;16]}).collect();
  for n in [1,8] {time(&std::format!("tags len {len} n {n}"),||v.tags(black_box(&macs[..n]),black_box(&mut tags[..n])));} }
  let stream=[9u8;1024]; if len>0 && len<1024 {time(&std::format!("8 xor {len}"),||for t in &mut texts {v.xor(black_box(&mut t[..]),black_box(&stream))});} }
 let k=crate::Key::new(key);
 for len in [0usize,64,1440] { for n in [1,8,16] { let mut texts:Vec<Vec<u8>>=(0..n).map(|_|vec![1u8;len+16]).collect(); let mut p:Vec<crate::Packet>=texts.iter_mut().map(|t|crate::Packet::new(&k,1,t).unwrap()).collect(); 
   time(&std::format!("seal len {len} n {n}"),||seal(v,black_box(&mut p))); } }
}
