(* Proofs about a problem's asserts without a solution: asserts that cannot hold, asserts that contradict one another,
   asserts that contradict the statement's examples.  Returns records in the form of inspect.ml. *)

open Parsetree
open Forms

type inspected = {
  loc : Location.t;
  condition : form;
  source : expression;
  claims : Claims.claim list;
  is_certain : bool;  (* it always runs *)
}

let line (loc : Location.t) = loc.loc_start.pos_lnum
let cause code message = [ "cause"; code; message ]
let warning code message = [ "warning"; code; message ]
let at loc text = Printf.sprintf "line %d: %s" (line loc) text

let value_text : Claims.value -> string = function
  | Exactly form -> to_string form
  | About (value, eps) -> Printf.sprintf "%s within %g" (to_string (Float value)) eps
  | Unclear -> "?"

(* Asserts that no solution can pass, whatever it returns. *)
let impossible items inspected =
  let of_assert one =
    let never claim =
      match claim.Claims.value with
      | Exactly value when claim.by_equality && mentions_nan value ->
          cause "impossible_assert" (at one.loc "nothing equals nan: " ^ to_string one.condition)
      | Exactly value when is_constant claim.call && is_constant value && differ claim.call value ->
          cause "impossible_assert" (at one.loc "it cannot hold: " ^ to_string one.condition)
      | _ -> []
    in
    if one.is_certain then List.concat_map never one.claims else []
  and of_statement expression =
    match expression.pexp_desc with
    | Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident (("raise" | "failwith" | "invalid_arg") as how); _ }; _ }, _)
      ->
        cause "impossible_assert" (at expression.pexp_loc ("the tests always end in " ^ how))
    | _ -> []
  in
  List.concat_map of_assert inspected @ List.concat_map of_statement (Claims.certain items)

let contradictions ~is_closed inspected =
  let claims =
    List.concat_map
      (fun one -> if one.is_certain then List.map (fun claim -> (one.loc, claim)) one.claims else [])
      inspected
  in
  let claims = List.filter (fun (_, claim) -> is_closed claim.Claims.call) claims in
  let rec pairs = function
    | [] -> []
    | (loc, claim) :: rest ->
        let same (_, other) = other.Claims.call = claim.Claims.call && Claims.contradict claim other in
        (match List.find_opt same rest with
        | Some (other_loc, other) ->
            let text =
              Printf.sprintf "lines %d and %d: %s is %s and %s" (line loc) (line other_loc) (to_string claim.call)
                (value_text claim.value) (value_text other.value)
            in
            cause "contradictory_asserts" text
        | None -> [])
        @ pairs rest
  in
  pairs claims

let disagreements ~is_closed examples inspected =
  let of_claim loc claim =
    let disagrees (example : Shown.example) =
      let said = match example.value with Some value -> is_constant value | None -> false in
      Option.map to_string example.call = Some (to_string claim.Claims.call)
      && (not (Shown.same_value claim example))
      && said
    in
    let clear = match claim.Claims.value with Exactly value -> is_constant value | About _ -> true | Unclear -> false in
    match List.find_opt disagrees examples with
    | Some example when clear && is_closed claim.call ->
        let text =
          Printf.sprintf "%s is %s in the statement, %s in the tests" (to_string claim.call) example.raw
            (value_text claim.value)
        in
        warning "example_disagrees" (at loc text)
    | _ -> []
  in
  List.concat_map (fun one -> List.concat_map (of_claim one.loc) one.claims) inspected
