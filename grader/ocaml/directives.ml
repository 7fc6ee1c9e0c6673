(* Programs with toplevel directives, as in scripts: [#require "str";;].  Most have no meaning for a compiled program and
   are dropped; those that read other files are refused. *)

open Parsetree

let harmless =
  [ "require"; "load"; "load_rec"; "directory"; "remove_directory"; "show"; "show_val"; "show_type"; "show_exception"; "show_module";
    "show_module_type"; "show_class"; "show_class_type"; "show_dirs"; "show_constructor"; "typeof"; "list"; "help"; "quit"; "exit";
    "trace"; "untrace"; "untrace_all"; "print_depth"; "print_length"; "install_printer"; "remove_printer"; "labels"; "principal";
    "rectypes"; "warnings"; "warn_error"; "thread"; "threads"; "camlp4o"; "camlp4r"; "predicates"; "syntax"; "pwd"; "debug"; "verbose" ]

let reads_files = [ "use"; "mod_use"; "use_output"; "cd"; "ppx"; "script" ]

(* [#use "topfind"] loads [#require] in a toplevel. *)
let is_of_findlib directive =
  match directive.pdir_arg with
  | Some { pdira_desc = Pdir_string ("topfind" | "topfind.camlp4"); _ } -> directive.pdir_name.txt = "use"
  | _ -> false

(* True if there may be one: # is also the method call of objects. *)
let may_hold_some source =
  let rec search from =
    match String.index_from_opt source from '#' with
    | Some at when at + 1 < String.length source -> (
        match source.[at + 1] with 'a' .. 'z' -> true | _ -> search (at + 1))
    | _ -> false
  in
  search 0

(* The program without its directives, and the first refused one; None if it has no directives or does not parse. *)
let parse lexbuf =
  let phrases = Parse.use_file lexbuf in
  let directives = List.filter_map (function Ptop_dir directive -> Some directive | Ptop_def _ -> None) phrases in
  let name directive = directive.pdir_name.txt in
  let is_refused directive = List.mem (name directive) reads_files && not (is_of_findlib directive) in
  let is_known directive = is_refused directive || is_of_findlib directive || List.mem (name directive) harmless in
  if directives = [] || not (List.for_all is_known directives) then None
  else
    let items = List.concat_map (function Ptop_def items -> items | Ptop_dir _ -> []) phrases in
    let refused = List.find_opt is_refused directives in
    Some (items, Option.map (fun directive -> ("#" ^ name directive, directive.pdir_loc)) refused)
