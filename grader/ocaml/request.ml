(* The current request, in memory that the runner shares with its forks: it leaves no garbage in the heap, which a fork
   would have to copy.  The functions are in runner_stubs.c; no name that a completion could use leads to them. *)

external read : Unix.file_descr -> int -> bool = "caravan_request_read"
external text : int -> int -> string = "caravan_request_text"
external value : int -> int -> 'a = "caravan_request_value"

(* In the fork: erases the request, since it contains the tests. *)
external forget : unit -> unit = "caravan_request_forget"

(* A marshalled value inside the request. *)
type 'a marshalled = { start : int; length : int }

let unmarshalled { start; length } = value start length

(* A request whose first field is a marshalled value: that value, and the other fields. *)
let receive fd =
  let length = Wire.length_at (Wire.read_exactly fd 4) 0 in
  if not (read fd length) then raise Wire.Closed;
  let first = { start = 4; length = Wire.length_at (text 0 4) 0 } in
  let rest = first.start + first.length in
  (first, Wire.decode (text rest (length - rest)))
