(* Detection of names that exist but that completions may not use. *)

let in_tokens lexbuf =
  Lexer.init ();
  let rec scan () =
    match Lexer.token lexbuf with
    | Parser.EOF -> None
    | token -> (
        match Policy.denied_token token with Some what -> Some (what, Location.curr lexbuf) | None -> scan ())
  in
  scan ()

(* Nearly every program contains none of the characters of such tokens and is not lexed a second time. *)
let in_source ~lexbuf source =
  let spelled word =
    let rec search from =
      match String.index_from_opt source from word.[0] with
      | None -> false
      | Some at ->
          (at + String.length word <= String.length source && String.sub source at (String.length word) = word)
          || search (at + 1)
    in
    search 0
  in
  if List.exists spelled Policy.spellings_of_denied_tokens then in_tokens (lexbuf source) else None

(* OCaml compiles a match as if nothing changed in the meantime.  If a guard or a lazy pattern changes a mutable field or an
   array between two reads of it, a value of one type is taken for another (OCaml issue 7241), which breaks type safety.  So a
   match may not both read the arguments of constructors through mutable data and run code between its cases. *)
let unsound_match ~given_items items =
  let open Parsetree in
  let default = Ast_iterator.default_iterator in
  let mutable_labels = Hashtbl.create 8 and found = ref None in
  Hashtbl.replace mutable_labels "contents" ();
  let label_declaration iterator (label : label_declaration) =
    if label.pld_mutable = Asttypes.Mutable then Hashtbl.replace mutable_labels label.pld_name.txt ();
    default.label_declaration iterator label
  in
  let labels = { default with label_declaration } in
  labels.structure labels (given_items @ items);
  let exists_in is_it pattern =
    let seen = ref false in
    let pat iterator pattern = if is_it pattern then seen := true else default.pat iterator pattern in
    let iterator = { default with pat } in
    iterator.pat iterator pattern;
    !seen
  in
  let has_arguments pattern =
    match pattern.ppat_desc with Ppat_construct (_, Some _) | Ppat_variant (_, Some _) -> true | _ -> false
  in
  let is_lazy pattern = match pattern.ppat_desc with Ppat_lazy _ -> true | _ -> false in
  let looks_into_mutable pattern =
    match pattern.ppat_desc with
    | Ppat_array parts -> List.exists (exists_in has_arguments) parts
    | Ppat_record (fields, _) ->
        let can_change (label : Longident.t Location.loc) = Hashtbl.mem mutable_labels (Longident.last label.txt) in
        List.exists (fun (label, inner) -> can_change label && exists_in has_arguments inner) fields
    | _ -> false
  in
  let cases iterator (all : case list) =
    let runs_code case = case.pc_guard <> None || exists_in is_lazy case.pc_lhs in
    let looks case = exists_in looks_into_mutable case.pc_lhs in
    (match List.find_opt looks all with
    | Some case when List.exists runs_code all ->
        found := Some ("a match on something mutable, with a guard or a lazy pattern,", case.pc_lhs.ppat_loc)
    | _ -> ());
    default.cases iterator all
  in
  let iterator = { default with cases } in
  iterator.structure iterator items;
  !found

(* A denied name is unbound for the type checker; the filter keeps it under a name that no source can spell. *)
let by exn =
  let hide : Longident.t -> Longident.t = function
    | Lident name -> Lident (Policy.hidden name)
    | Ldot (prefix, name) -> Ldot (prefix, Policy.hidden name)
    | Lapply _ as other -> other
  in
  let exists find lid environment = match find (hide lid) environment with _ -> true | exception Not_found -> false in
  let named lid = Some (String.concat "." (Longident.flatten lid)) in
  match exn with
  | Env.Error (Lookup_error (_, environment, Unbound_value (lid, _))) when exists Env.find_value_by_name lid environment
    ->
      named lid
  | Env.Error (Lookup_error (_, environment, Unbound_module lid)) when exists Env.find_module_by_name lid environment ->
      named lid
  | Env.Error (Lookup_error (_, _, Unbound_module (Lident name))) when List.mem name Policy.foreign_units -> Some name
  | _ -> None

(* Denied unchecked functions of the library have checked counterparts of the same type, which honest programs can use
   instead. *)
let checked_twin = function
  | "unsafe_chr" -> Some "chr"
  | "unsafe_of_int" -> Some "of_int"
  | "unsafe_to_char" -> Some "to_char"
  | "unsafe_to_string" -> Some "to_string"
  | "unsafe_of_string" -> Some "of_string"
  | "unsafe_blit" -> Some "blit"
  | "unsafe_blit_string" -> Some "blit_string"
  | "unsafe_fill" -> Some "fill"
  | _ -> None

let twin exn : (Longident.t * Longident.t) option =
  match (exn, by exn) with
  | Env.Error (Lookup_error (_, _, Unbound_value ((Lident name as lid), _))), Some _ ->
      Option.map (fun twin -> (lid, Longident.Lident twin)) (checked_twin name)
  | Env.Error (Lookup_error (_, _, Unbound_value ((Ldot (prefix, name) as lid), _))), Some _ ->
      Option.map (fun twin -> (lid, Longident.Ldot (prefix, twin))) (checked_twin name)
  | _ -> None

let replace (name, replacement) items =
  let default = Ast_mapper.default_mapper in
  let expr mapper (expression : Parsetree.expression) =
    match expression.pexp_desc with
    | Pexp_ident ({ txt; _ } as located) when txt = name ->
        { expression with pexp_desc = Pexp_ident { located with txt = replacement } }
    | _ -> default.expr mapper expression
  in
  let mapper = { default with expr } in
  mapper.structure mapper items
