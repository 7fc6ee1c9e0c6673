(* Types one item with some nodes cut, many times, within a budget. *)

open Parsetree

type error = { where : Location.t; message : string; cause : exn }

let max_errors = 50

(* Number of syntax tree nodes that may be typed again in search of fewer cuts: for one search, and for a program. *)
let stage_nodes = 5_000
let search_nodes = 24_000

(* CPU seconds after which the search stops; only exploding types get here. *)
let patience = 0.4

type budget = { mutable nodes : int; deadline : float }

let new_budget () = { nodes = search_nodes; deadline = Sys.time () +. patience }
let out_of_time budget = Sys.time () > budget.deadline
let exhausted budget = budget.nodes < 0 || out_of_time budget

(* Runs a search with part of the budget. *)
let staged budget search =
  let nodes = min stage_nodes budget.nodes in
  let part = { budget with nodes } in
  let result = search part in
  budget.nodes <- budget.nodes - (nodes - part.nodes);
  result

let error_of cause =
  let where, message = Messages.describe cause in
  { where = { where with loc_ghost = where = Location.none }; message; cause }

let typed env items =
  let _, _, env = Compat.type_structure env items in
  Typecore.force_delayed_checks ();
  env

(* Types items.  With [probe] the effects are undone, as after an error: weak type variables of earlier items are restored.
   *)
let type_items ?(probe = false) env items =
  let snapshot = Btype.snapshot () and restore_levels = Compat.saved_levels () in
  (* Typed trees kept for .cmt files would be copied by the next collection. *)
  let undo () = Btype.backtrack snapshot; Cmt_format.clear () in
  Typecore.reset_delayed_checks ();
  match typed env items with
  | env ->
      if probe then undo ();
      Ok env
  | exception ((Out_of_memory | Stack_overflow) as exn) -> raise exn
  | exception cause ->
      restore_levels ();
      (* Before the types that the message mentions are undone. *)
      let error = error_of cause in
      undo ();
      Error error

let says error part = Messages.index_of error.message part <> None

(* Other messages of the compiler for an unbound name, if the name exists but at another place. *)
let unbound_words env message =
  let exists find name = match find (Longident.Lident name) env with _ -> true | exception Not_found -> false in
  let words = String.split_on_char ' ' (String.map (function '\n' -> ' ' | other -> other) message) in
  let rec find = function
    | "no" :: "constructor" :: name :: "within" :: _ when exists Env.find_constructor_by_name name -> None
    | "no" :: "field" :: name :: "within" :: _ when exists Env.find_label_by_name name -> None
    | "no" :: "constructor" :: name :: "within" :: _ -> Some ("constructor", Longident.Lident name)
    | "no" :: "field" :: name :: "within" :: _ -> Some ("label", Longident.Lident name)
    | "type" :: "variable" :: name :: "is" :: "unbound" :: _ -> Some ("type variable", Longident.Lident name)
    | _ :: rest -> find rest
    | [] -> None
  in
  find words

(* The kind and name of an unbound name. *)
let unbound error =
  match error.cause with
  | Env.Error (Lookup_error (_, _, reason)) -> (
      match reason with
      | Unbound_value (lid, _) -> Some ("value", lid)
      | Unbound_type lid -> Some ("type", lid)
      | Unbound_constructor lid -> Some ("constructor", lid)
      | Unbound_label lid -> Some ("label", lid)
      | Unbound_module lid -> Some ("module", lid)
      | Unbound_class lid -> Some ("class", lid)
      | Unbound_modtype lid -> Some ("module type", lid)
      | Unbound_cltype lid -> Some ("class type", lid)
      | _ -> None)
  | Typecore.Error (_, env, _) -> unbound_words env error.message
  | _ -> unbound_words Env.empty error.message

let is_clash error =
  match error.cause with
  | Typecore.Error (_, _, (Pattern_type_clash _ | Expr_type_clash _)) -> true
  | Typecore.Error _ -> says error "There is no " && unbound error = None
  | _ -> false

(* The message is about a type that could not be known: a consequence of another error. *)
let is_consequence error =
  says error Holes.type_name
  (* From a checked counterpart (denied.ml), or from a context that is not known any more. *)
  || Denied.twin error.cause <> None
  || says error "packaged module couldn't be inferred"

(* Unbound names are certain errors with a certain repair; their consequences are not counted. *)
let is_free error = unbound error <> None || is_consequence error
let cost errors = List.length (List.filter (fun error -> not (is_free error)) errors)

(* Keyed by cuts in any order. *)
module Tried = Hashtbl.Make (struct
  type t = Holes.cut list

  let equal a b = List.compare_lengths a b = 0 && List.for_all (fun cut -> List.exists (Holes.same cut) b) a
  let hash cuts = List.fold_left (fun sum cut -> sum + Holes.number cut) 0 cuts
end)

type item = {
  tree : structure_item;
  env : Env.t;
  helpers : string list;  (* values that earlier items define *)
  places : Places.place list Lazy.t;
  size : int Lazy.t;
  tried : (structure, error) result Tried.t;  (* different searches often try the same cuts *)
}

let item_of ~env ~helpers tree =
  let places = lazy (Places.item_places tree) in
  { tree; env; helpers; places; size = lazy (List.length (Lazy.force places)); tried = Tried.create 8 }

(* The item after other predecessors than its own. *)
let after env item = { item with env; tried = Tried.create 8 }

let place_of item error = Places.smallest_covering error.where (Lazy.force item.places)

type step = Passes of structure | Stops_at of error | Same

let same_place first second =
  first.where.loc_start.pos_cnum = second.where.loc_start.pos_cnum
  && first.where.loc_end.pos_cnum = second.where.loc_end.pos_cnum

let attempt budget item cuts =
  match Tried.find_opt item.tried cuts with
  | Some result -> result
  | None ->
      budget.nodes <- budget.nodes - Lazy.force item.size;
      let trees = Holes.apply cuts item.tree in
      let result = Result.map (fun _ -> trees) (type_items ~probe:true item.env trees) in
      Tried.replace item.tried cuts result;
      result

let step budget item error cuts =
  match attempt budget item cuts with
  | Ok trees -> Passes trees
  | Error next when same_place next error -> Same
  | Error next -> Stops_at next
