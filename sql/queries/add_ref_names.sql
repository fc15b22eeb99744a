-- add_ref_names.sql($1 repo_id, $2 names): remember the names that the repo never had.
insert into ref (repo_id, name)
select $1::uuid, name from unnest($2::bytea[]) as given (name)
on conflict do nothing
