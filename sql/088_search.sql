-- 088_search.sql: refs and commits are found from the home page, by index.

-- The words of a ref's name, for the search by their beginnings: lower case, without what git puts before names. A byte
-- beyond ASCII is written as in encode(..., 'escape'). Names can be longer than an index entry may be: 1,000 bytes count.
create function ref_words(name bytea) returns tsvector language sql immutable strict parallel safe as $$
  select array_to_tsvector(array_remove(array_remove(array_remove(array_remove(array_remove(
    regexp_split_to_array(lower(encode(substring($1 from 1 for 1000), 'escape')), '[^a-z0-9\\]+'),
    ''), 'refs'), 'heads'), 'tags'), 'pull'))
$$;
create index ref_by_words on ref using gin (ref_words(name));

-- Where refs ever pointed, by the beginning of an object's id. The target of a symbolic ref can be longer than an id.
create index ref_stay_by_target on ref_stay (substring(target from 1 for 64));
create index ref_change_by_new on ref_change (substring(new from 1 for 64)) where new is not null;
