(* Checks that a problem's tests type-check under some implementation of its signature.

   The implementation is a stub of the most general type that the signature allows, so that tests that fail with it fail with
   every implementation.  Definitions that a real one would have to provide, because the statement only describes them (types,
   constructors, exceptions, modules, record fields, helper functions), are added as leniently as types allow:

     a type        a type variable if the signature names it, else [_]
     a constructor a value of a type of its own, never of the standard library's: ['a unknown'], or an exception
     a module      with every member that is used
     a helper      ['a]

   The statement or the signature has to mention such a name: otherwise the tests are at fault. *)

open Parsetree
open Ast_helper

let stub_name = "stub_of_the_audit"
let prelude_name = "Audit "
let any = "any "
let unknown_type = "unknown "
let located = Location.mknoloc
let ident name = Exp.ident (located (Longident.Lident name))

let prelude =
  let raising = Exp.apply (ident "raise") [ (Nolabel, Exp.construct (located (Longident.Lident "Not_found")) None) ] in
  let bind name value = Str.value Nonrecursive [ Vb.mk (Pat.var (located name)) value ] in
  let parameter = (Typ.var "a", (Asttypes.NoVariance, Asttypes.NoInjectivity)) in
  [
    bind any raising;
    bind stub_name (ident any);
    Str.type_ Nonrecursive [ Type.mk ~params:[ parameter ] (located unknown_type) ];
  ]

(* A name missing from the standard library, by the kind of its use. *)
type missing =
  | Constructor of string
  | Exception of string
  | Type of string
  | Module of string
  | Value of string
  | Field of string

let name_of = function Constructor name | Exception name | Type name | Module name | Value name | Field name -> name
let kind_of = function
  | Constructor _ -> "constructor"
  | Exception _ -> "exception"
  | Type _ -> "type"
  | Module _ -> "module"
  | Value _ -> "value"
  | Field _ -> "field"

let rec head_module : Longident.t -> string option = function
  | Lident _ -> None
  | Ldot (Lident name, _) -> Some name
  | Ldot (prefix, _) | Lapply (prefix, _) -> head_module prefix

let missing_in exn =
  let of_lid make (lid : Longident.t) = match lid with Lident name -> Some (make name) | _ -> None in
  match exn with
  | Env.Error (Lookup_error (_, _, Unbound_constructor lid)) -> of_lid (fun name -> Constructor name) lid
  | Env.Error (Lookup_error (_, _, Unbound_type lid)) -> of_lid (fun name -> Type name) lid
  | Env.Error (Lookup_error (_, _, Unbound_value (lid, _))) -> of_lid (fun name -> Value name) lid
  | Env.Error (Lookup_error (_, _, Unbound_label lid)) -> of_lid (fun name -> Field name) lid
  | Env.Error (Lookup_error (_, _, Unbound_module (Lident name))) -> Some (Module name)
  | Typecore.Error (_, _, Wrong_name (_, _, { type_path; kind = Variant; name; _ }))
    when Path.same type_path Predef.path_exn ->
      Some (Exception name.txt)
  | _ -> None

let ignoring expression rest = Exp.let_ Nonrecursive [ Vb.mk (Pat.any ()) expression ] rest
let unknown_value = Exp.constraint_ (ident any) (Typ.constr (located (Longident.Lident unknown_type)) [ Typ.any () ])
let exception_value = Exp.constraint_ (ident any) (Typ.constr (located (Longident.Lident "exn")) [])

let bind_any names body =
  let bind name body = Exp.let_ Nonrecursive [ Vb.mk (Pat.var (located name)) (ident any) ] body in
  List.fold_right bind names body

(* Adds the missing names.  [lost] is true if a pattern's variables could not be kept: then the result is unknown. *)
let filled ~missing ~in_signature ~lost =
  let default = Ast_mapper.default_mapper in
  let inside lid = match head_module lid with Some name -> List.mem (Module name) missing | None -> false in
  let is_missing make lid =
    inside lid || match lid with Longident.Lident name -> List.mem (make name) missing | _ -> false
  in
  let is_missing_constructor lid =
    is_missing (fun name -> Constructor name) lid || is_missing (fun name -> Exception name) lid
  in
  let value name = Value name and field name = Field name in
  let dropped = ref [] in
  let collecting work =
    let before = !dropped in
    dropped := [];
    let result = work () in
    let names = !dropped in
    dropped := before;
    (result, names)
  in
  let expr mapper expression =
    let again = mapper.Ast_mapper.expr mapper in
    match expression.pexp_desc with
    | Pexp_construct ({ txt; _ }, argument) when is_missing_constructor txt ->
        let made = if List.mem (Exception (Forms.last_name txt)) missing then exception_value else unknown_value in
        List.fold_right (fun one rest -> ignoring (again one) rest) (Option.to_list argument) made
    | Pexp_ident { txt; _ } when is_missing value txt -> { (ident any) with pexp_loc = expression.pexp_loc }
    | Pexp_record (fields, base) when List.exists (fun ({ Asttypes.txt; _ }, _) -> is_missing field txt) fields ->
        let parts = List.map snd fields @ Option.to_list base in
        List.fold_right (fun one rest -> ignoring (again one) rest) parts unknown_value
    | Pexp_field (record, { txt; _ }) when is_missing field txt -> ignoring (again record) (ident any)
    | Pexp_let (recursive, bindings, body) ->
        let bindings, names = collecting (fun () -> List.map (mapper.value_binding mapper) bindings) in
        { expression with pexp_desc = Pexp_let (recursive, bindings, bind_any names (again body)) }
    | _ -> default.expr mapper expression
  and case mapper case =
    let pc_lhs, names = collecting (fun () -> mapper.Ast_mapper.pat mapper case.pc_lhs) in
    let bound expression = bind_any names (mapper.expr mapper expression) in
    { pc_lhs; pc_guard = Option.map bound case.pc_guard; pc_rhs = bound case.pc_rhs }
  and pat mapper pattern =
    let drop () =
      dropped := Forms.pattern_names pattern @ !dropped;
      Pat.any ()
    in
    match pattern.ppat_desc with
    | Ppat_construct ({ txt; _ }, _) when is_missing_constructor txt -> drop ()
    | Ppat_record (fields, _) when List.exists (fun ({ Asttypes.txt; _ }, _) -> is_missing field txt) fields -> drop ()
    | _ -> default.pat mapper pattern
  and typ mapper core_type =
    match core_type.ptyp_desc with
    | Ptyp_constr ({ txt; _ }, []) when in_signature && is_missing (fun name -> Type name) txt ->
        (* The same type at every use in the signature. *)
        Typ.var ("audit_" ^ String.concat "_" (Longident.flatten txt))
    | Ptyp_constr ({ txt; _ }, _) when is_missing (fun name -> Type name) txt -> Typ.any ()
    | _ -> default.typ mapper core_type
  and structure_item mapper item =
    let item, names = collecting (fun () -> default.structure_item mapper item) in
    if names <> [] then lost := true;
    item
  in
  { default with expr; case; pat; typ; structure_item }

(* The compiler's report as text, while the types are still known. *)
type fault = { where : Location.t; message : string; because : exn }

let fault_of exn =
  match Location.error_of_exn exn with
  | Some (`Ok report) -> { where = report.main.loc; message = Compat.text_of report.main; because = exn }
  | Some `Already_displayed | None -> { where = Location.none; message = Printexc.to_string exn; because = exn }

let typed environment items =
  let check () =
    match Job.reported (fun () -> Job.type_items environment items) with
    | Ok _ -> Ok ()
    | Error exn -> Error (fault_of exn)
  in
  Hygiene.fresh check

let with_prelude items =
  [ Str.module_ (Mb.mk (located (Some prelude_name)) (Mod.structure prelude));
    Str.open_ (Opn.mk (Mod.ident (located (Longident.Lident prelude_name)))) ] @ items

type settled = { fault : fault; missing : missing list }

(* Types the tests until no name that [may_lack] allows is missing; returns the added names. Error holds the first error,
   before any name was added. *)
let settle ~may_lack ~missing ~build environment =
  let rec go ~first ~fuel missing =
    match typed environment (build missing) with
    | Ok () -> Ok missing
    | Error fault -> (
        let first = Option.value first ~default:fault in
        match missing_in fault.because with
        | Some name when fuel > 0 && may_lack name && not (List.mem name missing) ->
            go ~first:(Some first) ~fuel:(fuel - 1) (name :: missing)
        | _ -> Error { fault = first; missing })
  in
  go ~first:None ~fuel:64 missing

let uses_as_function items name =
  let found = ref false in
  let default = Ast_iterator.default_iterator in
  let expr iterator expression =
    (match expression.pexp_desc with
    | Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident used; _ }; _ }, _) when used = name -> found := true
    | _ -> ());
    default.expr iterator expression
  in
  let iterator = { default with expr } in
  iterator.structure iterator items;
  !found

type outcome =
  | Feasible of missing list  (* definitions that an implementation has to provide *)
  | Unknown  (* too many to give a result *)
  | Bad_signature of fault
  | Bad_tests of fault

(* [mentioned] and [helper]: true if the statement mentions a name, or mentions it as a function. *)
let try_given environment ~given ~signature ~tests ~mentioned ~helper =
  let lost = ref false in
  let fill ~in_signature missing items =
    let mapper = filled ~missing ~in_signature ~lost in
    mapper.structure mapper items
  in
  let solution missing = with_prelude (given @ fill ~in_signature:true missing signature) in
  let in_signature = function Type _ | Module _ -> true | Constructor _ | Exception _ | Value _ | Field _ -> false in
  let in_tests = function
    | Value name -> helper name && uses_as_function tests name
    | Module name when List.mem name Policy.foreign_units -> false
    | Constructor name | Exception name | Type name | Module name | Field name -> mentioned name
  in
  match settle ~may_lack:in_signature ~missing:[] ~build:solution environment with
  | Error { fault; _ } -> Bad_signature fault
  | Ok missing -> (
      let build missing = solution missing @ fill ~in_signature:false missing tests in
      let attempt missing = settle ~may_lack:in_tests ~missing ~build environment in
      match attempt missing with
      | Ok missing -> Feasible missing
      | Error _ when !lost -> Unknown
      | Error { fault; missing } -> (
          (* Constructors whose use does not show that they are exceptions: [raises Empty (fun () -> pop [])]. *)
          let raised = List.map (function Constructor name -> Exception name | other -> other) missing in
          if raised = missing then Bad_tests fault
          else
            match attempt raised with
            | Ok missing -> Feasible missing
            | Error _ -> if !lost then Unknown else Bad_tests fault))

(* Arguments of the same types must give results of the same type.  [calls]: arguments and value of calls with constant
   values, each of which type-checks alone. *)
let results_conflict environment ~given calls =
  match calls with
  | [] | [ _ ] -> false
  | (first, _) :: rest when List.exists (fun (arguments, _) -> List.length arguments <> List.length first) rest -> false
  | _ ->
      let apply name argument = Exp.apply (ident name) [ (Asttypes.Nolabel, argument) ] in
      let fits ~parameters statements =
        let body = List.fold_right ignoring statements (Exp.construct (located (Longident.Lident "()")) None) in
        let run = List.fold_right (fun name body -> Compat.lambda (Pat.var (located name)) body) parameters body in
        Result.is_ok (typed environment (given @ [ Str.value Nonrecursive [ Vb.mk (Pat.any ()) run ] ]))
      in
      let argument_name position = "argument " ^ string_of_int position in
      let results = List.map (fun (_, value) -> apply "result " value) calls in
      let arguments =
        List.concat_map (fun (arguments, _) -> List.mapi (fun at one -> apply (argument_name at) one) arguments) calls
      in
      let parameters = List.mapi (fun at _ -> argument_name at) (fst (List.hd calls)) in
      let alone result = fits ~parameters:[ "result " ] [ result ] in
      List.for_all alone results && (not (fits ~parameters:[ "result " ] results)) && fits ~parameters arguments
