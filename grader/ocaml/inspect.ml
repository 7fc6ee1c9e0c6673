(* What a problem's tests say about themselves: how many asserts there are and which of them the statement gives away. *)

let answer (_environment : Env.t) (_fields : string list) : string list = failwith "not there yet"
