(* One structure item that does not pass: the fewest cuts with which it does. *)

open Parsetree
open Trial

(* Cuts with which an item passes, and the errors that called for them; both with the last one first. *)
type repair = { cuts : Holes.cut list; errors : error list; trees : structure }

let suspects item error =
  match place_of item error with
  | None -> ([], [])
  | Some place ->
      let places = Lazy.force item.places and clash = is_clash error in
      let usual = Suspects.of_place ~helpers:item.helpers ~clash item.tree places place in
      let direct =
        match (unbound error, place.node) with
        | Some ("value", Lident name), _ -> [ Holes.Assume name ]
        | Some ("value", lid), _ -> [ Assume_path lid ]
        | Some _, Expr e when Holes.can_dissolve e -> [ Dissolve e ]
        | Some _, Pat p -> [ Any_pattern p ]
        | _ -> []
      in
      (direct @ usual, Suspects.last_resorts place)

(* The first cut that changes anything, again and again; where there is none, the errors so far. *)
let rec first_repair ?(limit = max_errors) budget item cuts errors error =
  if out_of_time budget || cost (error :: errors) > limit then Error (error :: errors)
  else
    let rec among = function
      | [] -> Error (error :: errors)
      | cut :: rest -> (
          match step budget item error (cut :: cuts) with
          | Passes trees -> Ok { cuts = cut :: cuts; errors = error :: errors; trees }
          | Stops_at next -> first_repair ~limit budget item (cut :: cuts) (error :: errors) next
          | Same -> among rest)
    in
    let usual, last = suspects item error in
    among (usual @ last)

(* A repair of at most [bound] cuts that takes another cut than the first that changes anything no more than [slack]
   times. *)
let rec bounded_repair budget item ~bound ~slack cuts errors error =
  let bound = if is_free error then bound else bound - 1 in
  let rec among slack = function
    | [] -> None
    | _ when exhausted budget -> None
    | cut :: rest -> (
        match step budget item error (cut :: cuts) with
        | Passes trees -> Some { cuts = cut :: cuts; errors = error :: errors; trees }
        | Same -> among slack rest
        | Stops_at next when slack >= 0 && (bound > 0 || is_free next) -> (
            match bounded_repair budget item ~bound ~slack (cut :: cuts) (error :: errors) next with
            | Some repair -> Some repair
            | None -> if is_free error then None else among (slack - 1) rest)
        | Stops_at _ -> among slack rest)
  in
  if bound < 0 then None else among slack (fst (suspects item error))

(* A repair by one cut, wherever it may be. *)
let single_repair budget item cuts errors error =
  let try_cut cut =
    let cuts = cut :: cuts and errors = error :: errors in
    match if exhausted budget then Same else step budget item error cuts with
    | Passes trees -> Some { cuts; errors; trees }
    | Stops_at next when is_free next ->
        Result.to_option (first_repair ~limit:(cost errors) budget item cuts errors next)
    | Stops_at _ | Same -> None
  in
  match place_of item error with
  | Some place -> List.find_map try_cut (Suspects.everywhere (Lazy.force item.places) place)
  | None -> None

(* Commits at each error to the cut after which the fewest errors follow, when from then on the first cut that helps is
   taken. *)
let rec by_consequences budget item ~below cuts errors error =
  let cost_of (repair, _, _) = cost repair.errors in
  let outcome best cut =
    let limit = match best with Some found -> cost_of found - 1 | None -> below in
    let cuts = cut :: cuts and errors = error :: errors in
    match if exhausted budget then Same else step budget item error cuts with
    | Passes trees when cost errors <= limit -> Some ({ cuts; errors; trees }, cut, None)
    | Passes _ | Same -> best
    | Stops_at next -> (
        match first_repair ~limit budget item cuts errors next with
        | Ok repair -> Some (repair, cut, Some next)
        | Error _ -> best)
  in
  let all = Suspects.distinct (fst (suspects item error) @ Suspects.definitions (Lazy.force item.places)) in
  match List.fold_left outcome None all with
  | None -> None
  | Some (repair, _, None) -> Some repair
  | Some (repair, cut, Some next) -> (
      match by_consequences budget item ~below:(cost repair.errors - 1) (cut :: cuts) (error :: errors) next with
      | Some better -> Some better
      | None -> Some repair)

(* Past the errors whose repair is certain. *)
let rec past_free budget item cuts errors error =
  let helps cut =
    match step budget item error (cut :: cuts) with Stops_at next -> Some (cut, next) | Passes _ | Same -> None
  in
  if exhausted budget || not (is_free error) then (cuts, errors, error)
  else
    match List.find_map helps (fst (suspects item error)) with
    | Some (cut, next) -> past_free budget item (cut :: cuts) (error :: errors) next
    | None -> (cuts, errors, error)

let rec first_found = function
  | [] -> None
  | search :: rest -> ( match search () with Some found -> Some found | None -> first_found rest)

(* The errors alone where no repair is found. *)
let of_item budget item error =
  let first = first_repair budget item [] [] error in
  let below = match first with Ok repair -> cost repair.errors - 1 | Error errors -> cost errors in
  if below < 1 then first
  else
    let cuts, errors, error = past_free budget item [] [] error in
    let stage at_least search () = if below < at_least then None else staged budget search in
    let at_most bound = stage bound (fun part -> bounded_repair part item ~bound ~slack:2 cuts errors error) in
    let single = stage 1 (fun part -> single_repair part item cuts errors error) in
    let consequences = stage 2 (fun part -> by_consequences part item ~below cuts errors error) in
    match first_found [ at_most 1; single; at_most 2; consequences ] with Some repair -> Ok repair | None -> first
