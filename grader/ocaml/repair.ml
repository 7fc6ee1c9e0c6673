(* Repairs one structure item that does not type-check, with the fewest cuts. *)

open Parsetree
open Trial

(* Cuts with which an item type-checks, and the errors they repair; both last first. *)
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

(* Repeatedly takes the first cut that changes anything; without one, returns the errors so far. *)
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

(* Splits in two; the nearer part is smaller, since the repair is usually near. *)
let parted list =
  let is_near index _ = 4 * index < List.length list in
  [ List.filteri is_near list; List.filteri (fun index cut -> not (is_near index cut)) list ]

(* The first of all cuts with which alone [attempt] succeeds.  If it fails with a whole group together, none of the group is
   tried: an additional cut rarely makes an item fail. *)
let rec first_alone attempt groups =
  let within group =
    match (group, if group = [] then None else attempt group) with
    | _, None -> None
    | [ _ ], found -> found
    | _, Some _ -> first_alone attempt (parted group)
  in
  List.find_map within groups

(* A repair by one more cut: a suspect, or [anywhere]. *)
let single_repair ?(anywhere = false) budget item cuts errors error =
  let errors = error :: errors in
  let attempt group =
    let cuts = group @ cuts in
    match if exhausted budget then Same else step budget item error cuts with
    | Passes trees -> Some { cuts; errors; trees }
    | Stops_at next when is_free next ->
        Result.to_option (first_repair ~limit:(cost errors) budget item cuts errors next)
    | Stops_at _ | Same -> None
  in
  match place_of item error with
  | None -> None
  | Some place ->
      let places = Lazy.force item.places in
      let joins = Suspects.joins item.tree places in
      let likely, alone = List.partition joins (fst (suspects item error)) in
      let others = if anywhere then List.filter joins (Suspects.everywhere places place) else [] in
      first_alone attempt ((likely :: List.map (fun cut -> [ cut ]) alone) @ parted others)

(* A repair of at most [bound] cuts that deviates at most [slack] times from the first cut that changes anything. *)
let rec bounded_repair budget item ~bound ~slack cuts errors error =
  let rec among slack = function
    | [] -> None
    | _ when exhausted budget -> None
    | cut :: rest -> (
        match step budget item error (cut :: cuts) with
        | Passes trees -> Some { cuts = cut :: cuts; errors = error :: errors; trees }
        | Same -> among slack rest
        | Stops_at next when slack >= 0 -> (
            match bounded_repair budget item ~bound:(bound - 1) ~slack (cut :: cuts) (error :: errors) next with
            | Some repair -> Some repair
            | None -> among (slack - 1) rest)
        | Stops_at _ -> among slack rest)
  in
  if bound <= 1 then single_repair budget item cuts errors error else among slack (fst (suspects item error))

(* At each error takes the cut after which the fewest errors follow, if from then on the first cut that helps is taken. *)
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

(* Skips errors with a certain repair. *)
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

(* Only the errors if no repair is found.  One error needs no search, and the first repair is completed only if no single
   cut succeeds. *)
let of_item budget item error =
  match first_repair ~limit:1 budget item [] [] error with
  | Ok repair -> Ok repair
  | Error _ -> (
      let cuts, errors, last = past_free budget item [] [] error in
      let single part = single_repair ~anywhere:true part item cuts errors last in
      match staged budget single with
      | Some repair -> Ok repair
      | None -> (
          let first = first_repair budget item [] [] error in
          let below = match first with Ok repair -> cost repair.errors - 1 | Error errors -> cost errors in
          let at_most_2 part = bounded_repair part item ~bound:2 ~slack:2 cuts errors last in
          let consequences part = by_consequences part item ~below cuts errors last in
          let search stage () = if below < 2 then None else staged budget stage in
          match first_found [ search at_most_2; search consequences ] with Some repair -> Ok repair | None -> first))
