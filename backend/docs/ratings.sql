-- A table for the app's ratings that the build can read fast. Run it in Supabase's SQL editor or psql;
-- it can be run again. If the app has such a table under other names, set APP_RATINGS_TABLE, … instead.

begin;

create table if not exists public.ratings (
  user_id uuid not null references auth.users (id) on delete cascade,
  movie_id integer not null check (movie_id > 0),  -- TMDB
  -- With another APP_RATINGS_SCALE: smallint between 1 and 10, or boolean without a check.
  rating real not null check (rating between 0.5 and 5),
  -- One rating for each user and film. Pages over REST are read from this index.
  primary key (user_id, movie_id)
);
do $$
begin
  if not exists (select from pg_constraint
                 where conrelid = 'public.ratings'::regclass and contype = 'p') then
    raise exception 'public.ratings exists already, without a primary key: '
                    'alter table public.ratings add primary key (user_id, movie_id)';
  end if;
end $$;
-- For the app's own queries by film; the build does not use it.
create index if not exists ratings_movie_id on public.ratings (movie_id);

-- Users see and change only their own ratings. Policies do not apply to the service-role key, the
-- table's owner and roles with bypassrls; the build uses one of these.
alter table public.ratings enable row level security;
revoke all on public.ratings from anon, authenticated;
grant select, insert, update, delete on public.ratings to authenticated, service_role;

drop policy if exists "own ratings" on public.ratings;
create policy "own ratings" on public.ratings to authenticated
  using ((select auth.uid()) = user_id)
  with check ((select auth.uid()) = user_id);

commit;

-- For SUPABASE_DB_URL: a role that can read the ratings and nothing else. You need permission to create
-- a role with bypassrls (before PostgreSQL 16, a superuser's); otherwise use the table's owner. Choose
-- your own password. For another table, grant usage on its schema and select on it. On Supabase's
-- pooler the user is ratings_reader.PROJECT.
--
--   create role ratings_reader login bypassrls password '...';
--   grant usage on schema public to ratings_reader;
--   grant select on public.ratings to ratings_reader;
