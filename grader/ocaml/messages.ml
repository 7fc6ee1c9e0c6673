(* The compiler's error messages, bounded in size and time: a type in a message can be larger than memory. *)

let max_bytes = 2_000

(* CPU seconds for one message; a usual one takes 0.1 ms. *)
let patience = 0.05
let too_large = "an error that speaks of a type too large to print"

exception Enough
exception Too_slow

(* The timer repeats, since a handler inside [work] may swallow the first exception. *)
let within_patience work =
  let fire _ = raise Too_slow in
  let before = Sys.signal Sys.sigvtalrm (Sys.Signal_handle fire) in
  let set it_interval it_value = ignore (Unix.setitimer ITIMER_VIRTUAL { Unix.it_interval; it_value }) in
  let stop () = set 0.0 0.0; Sys.set_signal Sys.sigvtalrm before in
  match set 0.01 patience; work () with
  | result -> stop (); Some result
  | exception Too_slow -> stop (); None
  | exception other -> stop (); raise other

let starts_at text index part =
  index + String.length part <= String.length text && String.sub text index (String.length part) = part

let index_of text part =
  let rec search index =
    if index + String.length part > String.length text then None
    else if starts_at text index part then Some index
    else search (index + 1)
  in
  search 0

(* [Location] adds "File ..., line ...:" in front, and indents the text after "Error: ". *)
let without_headers text =
  let marker = "Error: " in
  let start = match index_of text marker with Some index -> index + String.length marker | None -> 0 in
  let lines = String.split_on_char '\n' (String.sub text start (String.length text - start)) in
  let is_content line = line <> "" && not (starts_at line 0 "File \"") in
  String.concat "\n" (List.filter is_content (List.map String.trim lines))

(* ['_weak12] is numbered per process by the compiler; here per message. *)
let renumbered text =
  let marker = "'_weak" in
  let seen = Hashtbl.create 4 and result = Buffer.create (String.length text) in
  let is_digit index = index < String.length text && text.[index] >= '0' && text.[index] <= '9' in
  let rec end_of_digits index = if is_digit index then end_of_digits (index + 1) else index in
  let number digits =
    if not (Hashtbl.mem seen digits) then Hashtbl.add seen digits (Hashtbl.length seen + 1);
    string_of_int (Hashtbl.find seen digits)
  in
  let rec copy index =
    if starts_at text index marker then begin
      let start = index + String.length marker in
      let stop = end_of_digits start in
      Buffer.add_string result (marker ^ number (String.sub text start (stop - start)));
      copy stop
    end
    else if index < String.length text then begin
      Buffer.add_char result text.[index];
      copy (index + 1)
    end
  in
  copy 0;
  Buffer.contents result

(* [M/5441]: the compiler numbers names that are ambiguous, counting all names of the process. *)
let without_stamps text =
  let length = String.length text and result = Buffer.create (String.length text) in
  let is_digit index = index < length && text.[index] >= '0' && text.[index] <= '9' in
  let ends_name index =
    index >= 0 && match text.[index] with 'a' .. 'z' | 'A' .. 'Z' | '0' .. '9' | '_' | '\'' -> true | _ -> false
  in
  let rec skip_digits index = if is_digit index then skip_digits (index + 1) else index in
  let rec copy index =
    if index < length then
      if text.[index] = '/' && ends_name (index - 1) && is_digit (index + 1) then copy (skip_digits (index + 1))
      else begin
        Buffer.add_char result text.[index];
        copy (index + 1)
      end
  in
  copy 0;
  Buffer.contents result

let printed report =
  let buffer = Buffer.create 200 in
  let out text start length =
    Buffer.add_substring buffer text start length;
    if Buffer.length buffer > max_bytes then raise Enough
  in
  let formatter = Format.make_formatter out ignore in
  Format.pp_set_geometry formatter ~max_indent:9_999 ~margin:10_000;
  (match Location.print_report formatter report; Format.pp_print_flush formatter () with
  | () -> ()
  | exception Enough ->
      Buffer.truncate buffer max_bytes;
      Buffer.add_string buffer " ...");
  without_stamps (renumbered (without_headers (Buffer.contents buffer)))

(* The location, without computing the text. *)
let place = function
  | Typecore.Error (loc, _, _) | Typetexp.Error (loc, _, _) | Env.Error (Lookup_error (loc, _, _)) -> loc
  | _ -> Location.none

let described exn =
  match Location.error_of_exn exn with
  | Some (`Ok report) ->
      let bare (message : Location.msg) = { message with loc = Location.none } in
      (report.main.loc, printed { report with main = bare report.main; sub = List.map bare report.sub })
  | Some `Already_displayed | None -> (Location.none, Printexc.to_string exn)

let describe exn =
  match within_patience (fun () -> described exn) with Some described -> described | None -> (place exn, too_large)

(* The type of a value as text, if it is fully known and not huge (a small type can stand for a tree of exponential size).
   *)
let spelled (value : Types.value_description) =
  let nodes_left = ref 1000 in
  let rec look t =
    decr nodes_left;
    if !nodes_left < 0 || Compat.level_of t <> Btype.generic_level then raise Exit;
    Btype.iter_type_expr look t
  in
  match look value.val_type with
  | () -> Some (Format.asprintf "%a" Printtyp.type_scheme value.val_type)
  | exception Exit -> None
