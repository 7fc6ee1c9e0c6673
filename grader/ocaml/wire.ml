(* Frames on the pipes to and from Python: a 32-bit big-endian length and a payload of that many bytes, which consists of
   fields of the same form.  Nothing else is written to the pipes. *)

exception Closed

let rec write_all fd bytes offset length =
  if length > 0 then begin
    let written = Unix.write fd bytes offset length in
    write_all fd bytes (offset + written) (length - written)
  end

let rec fill fd bytes offset length =
  if length > 0 then
    match Unix.read fd bytes offset length with
    | 0 -> raise Closed
    | count -> fill fd bytes (offset + count) (length - count)

let read_exactly fd length =
  let bytes = Bytes.create length in
  fill fd bytes 0 length;
  Bytes.unsafe_to_string bytes

let length_at text offset = Int32.to_int (String.get_int32_be text offset) land 0xFFFF_FFFF

let decode frame =
  let rec fields offset =
    if offset >= String.length frame then []
    else
      let length = length_at frame offset in
      let field = String.sub frame (offset + 4) length in
      field :: fields (offset + 4 + length)
  in
  fields 0

let encode fields =
  let buffer = Buffer.create 4096 in
  let add field =
    Buffer.add_int32_be buffer (Int32.of_int (String.length field));
    Buffer.add_string buffer field
  in
  List.iter add fields;
  Buffer.contents buffer

let framed payload =
  let frame = Bytes.create (4 + String.length payload) in
  Bytes.set_int32_be frame 0 (Int32.of_int (String.length payload));
  Bytes.blit_string payload 0 frame 4 (String.length payload);
  frame

let send_frame fd payload = write_all fd (framed payload) 0 (4 + String.length payload)
let send fd fields = send_frame fd (encode fields)
let receive_frame fd = read_exactly fd (length_at (read_exactly fd 4) 0)

(* A buffer for forwarding frames from one pipe to another, reused for each frame: a process that only forwards never
   collects, so its memory stays shared with its forks. *)
type parcel = { mutable bytes : Bytes.t; mutable size : int }

let usual_parcel = 256 * 1024
let parcel () = { bytes = Bytes.create usual_parcel; size = 0 }

let pick_up fd parcel =
  let length = length_at (read_exactly fd 4) 0 in
  let room = max usual_parcel (4 + length) in
  if room > Bytes.length parcel.bytes || Bytes.length parcel.bytes > usual_parcel then parcel.bytes <- Bytes.create room;
  Bytes.set_int32_be parcel.bytes 0 (Int32.of_int length);
  fill fd parcel.bytes 4 length;
  parcel.size <- 4 + length

let hand_over fd parcel = write_all fd parcel.bytes 0 parcel.size
let contents parcel = decode (Bytes.sub_string parcel.bytes 4 (parcel.size - 4))

(* Moves the protocol to private descriptors; the standard ones become the null device (as stderr already is), so that code
   that runs later in this process or a fork cannot write to the pipes. *)
let take_over_standard_descriptors () =
  let requests = Unix.dup ~cloexec:true Unix.stdin and answers = Unix.dup ~cloexec:true Unix.stdout in
  Unix.dup2 Unix.stderr Unix.stdin;
  Unix.dup2 Unix.stderr Unix.stdout;
  (requests, answers)
