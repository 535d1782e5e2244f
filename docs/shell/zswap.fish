# fish completion for zswap(1): the program itself is asked what could come next
function __zswap_complete
    set -l answers (env _ZSWAP_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) zswap 2>/dev/null)
    for answer in $answers
        set -l parts (string split -m 1 "," $answer)
        if test "$parts[1]" = plain
            echo $parts[2]
        end
    end
end
complete -c zswap -a "(__zswap_complete)"
