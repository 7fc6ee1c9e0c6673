(* The examples of a statement, and the claims of the tests that they cover.  Pure. *)

open Forms

type example = { call_text : string; call : form option; value : form option; raw : string }

let parse_expression text =
  let parse () = Parse.expression (Job.lexbuf_of ~file:"example.ml" text) in
  Result.to_option (Job.reported parse)

(* Spelling that prose omits: quotes, parentheses, spaces. *)
let loose text =
  let buffer = Buffer.create (String.length text) and pending = ref false in
  let is_word = function 'a' .. 'z' | 'A' .. 'Z' | '0' .. '9' | '_' | '\128' .. '\255' -> true | _ -> false in
  let last_is_word () = Buffer.length buffer > 0 && is_word (Buffer.nth buffer (Buffer.length buffer - 1)) in
  let add char =
    match char with
    | '"' | '\'' -> ()
    | '(' | ')' | ' ' | '\n' | '\t' -> pending := true
    | char ->
        if !pending && is_word char && last_is_word () then Buffer.add_char buffer ' ';
        pending := false;
        Buffer.add_char buffer char
  in
  String.iter add text;
  Buffer.contents buffer

let plain = function Text content -> content | form -> to_string form

let examples_of ~name fields =
  let example call_text raw =
    let form text = Option.map of_expression (parse_expression text) in
    let call = form call_text in
    match (call, raw) with
    | Some (Apply (Name "=", _) as equality), ("" | "true") -> (
        match Claims.of_form ~name ~holds:true equality with
        | [ { call; value = Exactly value; _ } ] ->
            [ { call_text = to_string call; call = Some call; value = Some value; raw = plain value } ]
        | _ -> [])
    | _, "" -> []
    | call, raw -> [ { call_text; call; value = form raw; raw } ]
  in
  let rec pairs = function call :: value :: rest -> example call value @ pairs rest | _ -> [] in
  pairs fields

let same_call claim example =
  let text = to_string claim.Claims.call in
  match example.call with
  | Some call when to_string call = text -> true
  | _ -> loose example.call_text = loose text

let same_value claim example =
  let close value eps =
    match Option.bind example.value Claims.number with
    | Some number -> Float.abs (number -. value) <= eps
    | None -> false
  in
  match claim.Claims.value with
  | Unclear -> false
  | About (value, eps) -> close value eps
  | Exactly value -> (
      Option.map to_string example.value = Some (to_string value)
      || loose example.raw = loose (plain value)
      || match Claims.number value with Some number -> close number 0. | None -> false)

let given_away examples claim = List.exists (fun one -> same_call claim one && same_value claim one) examples
