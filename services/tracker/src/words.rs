//! What pages say to payers, in their language. `{}` is the number of an invoice.

/// A title and what there is to know.
pub type Note = [&'static str; 2];

/// All texts of a language.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// BCP 47.
    pub language: &'static str,
    /// We cannot do our part.
    pub sorry: Note,
    /// There is no such link.
    pub unknown: Note,
    /// The invoice of the link is paid.
    pub settled: Note,
    /// It is not owed any more, although nobody has paid it.
    pub closed: Note,
    /// The invoice has no address at which to pay.
    pub no_page: Note,
    /// Over several invoices.
    pub invoices: &'static str,
    /// One of them, to be paid.
    pub pay: &'static str,
    /// One of them, paid.
    pub paid: &'static str,
    /// One of them, not owed any more.
    pub nothing: &'static str,
    /// Before somebody unsubscribes.
    pub unsubscribe: Note,
    /// The button for it.
    pub unsubscribe_now: &'static str,
    /// Afterwards.
    pub unsubscribed: Note,
}

/// In the languages in which reminders are shipped.
static ALL: [Words; 10] = [
    Words {
        language: "en",
        sorry: ["Please try again", "This does not work right now. Please try again in a minute."],
        unknown: [
            "Unknown link",
            "This link is not complete or not valid any more. Please use the one in the latest message.",
        ],
        settled: ["Already settled", "Invoice {} is settled. There is nothing left to pay. Thank you!"],
        closed: ["Nothing to pay", "Invoice {} is closed. There is nothing left to pay."],
        no_page: ["No payment page", "Please pay invoice {} as it is described there, or answer our message."],
        invoices: "Your invoices",
        pay: "Pay invoice {}",
        paid: "Invoice {}: settled, thank you!",
        nothing: "Invoice {}: nothing to pay",
        unsubscribe: [
            "No more reminders by email?",
            "We will not remind you by email any more. Your invoices stay as they are.",
        ],
        unsubscribe_now: "Unsubscribe",
        unsubscribed: ["Done", "You will get no more reminders by email from us."],
    },
    Words {
        language: "de",
        sorry: [
            "Bitte versuchen Sie es noch einmal",
            "Das funktioniert gerade nicht. Bitte versuchen Sie es in einer Minute noch einmal.",
        ],
        unknown: [
            "Unbekannter Link",
            "Dieser Link ist unvollständig oder nicht mehr gültig. Bitte nehmen Sie den aus der neuesten Nachricht.",
        ],
        settled: ["Bereits beglichen", "Rechnung {} ist beglichen. Es ist nichts mehr zu bezahlen. Vielen Dank!"],
        closed: ["Nichts zu bezahlen", "Rechnung {} ist abgeschlossen. Es ist nichts mehr zu bezahlen."],
        no_page: [
            "Keine Zahlungsseite",
            "Bitte bezahlen Sie Rechnung {} wie dort angegeben, oder antworten Sie auf unsere Nachricht.",
        ],
        invoices: "Ihre Rechnungen",
        pay: "Rechnung {} bezahlen",
        paid: "Rechnung {}: beglichen, vielen Dank!",
        nothing: "Rechnung {}: nichts zu bezahlen",
        unsubscribe: [
            "Keine Erinnerungen mehr per E-Mail?",
            "Wir erinnern Sie dann nicht mehr per E-Mail. An Ihren Rechnungen ändert das nichts.",
        ],
        unsubscribe_now: "Abmelden",
        unsubscribed: ["Erledigt", "Sie bekommen von uns keine Erinnerungen mehr per E-Mail."],
    },
    Words {
        language: "es",
        sorry: ["Inténtelo de nuevo", "Ahora mismo no es posible. Inténtelo de nuevo dentro de un minuto."],
        unknown: [
            "Enlace desconocido",
            "Este enlace está incompleto o ya no es válido. Utilice el del mensaje más reciente.",
        ],
        settled: ["Ya está pagada", "La factura {} está pagada. No queda nada por pagar. ¡Gracias!"],
        closed: ["Nada que pagar", "La factura {} está cerrada. No queda nada por pagar."],
        no_page: ["Sin página de pago", "Pague la factura {} como se indica en ella o responda a nuestro mensaje."],
        invoices: "Sus facturas",
        pay: "Pagar la factura {}",
        paid: "Factura {}: pagada, ¡gracias!",
        nothing: "Factura {}: nada que pagar",
        unsubscribe: [
            "¿No recibir más recordatorios por correo electrónico?",
            "No volveremos a enviarle recordatorios por correo electrónico. Sus facturas no cambian.",
        ],
        unsubscribe_now: "Darse de baja",
        unsubscribed: ["Hecho", "No recibirá más recordatorios nuestros por correo electrónico."],
    },
    Words {
        language: "fr",
        sorry: ["Veuillez réessayer", "Cela ne fonctionne pas pour le moment. Veuillez réessayer dans une minute."],
        unknown: [
            "Lien inconnu",
            "Ce lien est incomplet ou n’est plus valable. Veuillez utiliser celui du dernier message.",
        ],
        settled: ["Déjà réglée", "La facture {} est réglée. Il ne reste rien à payer. Merci\u{a0}!"],
        closed: ["Rien à payer", "La facture {} est close. Il ne reste rien à payer."],
        no_page: [
            "Pas de page de paiement",
            "Veuillez régler la facture {} comme elle l’indique, ou répondre à notre message.",
        ],
        invoices: "Vos factures",
        pay: "Payer la facture {}",
        paid: "Facture {}\u{a0}: réglée, merci\u{a0}!",
        nothing: "Facture {}\u{a0}: rien à payer",
        unsubscribe: [
            "Ne plus recevoir de rappels par e-mail\u{a0}?",
            "Nous ne vous enverrons plus de rappels par e-mail. Vos factures restent inchangées.",
        ],
        unsubscribe_now: "Se désabonner",
        unsubscribed: ["C’est fait", "Vous ne recevrez plus de rappels de notre part par e-mail."],
    },
    Words {
        language: "it",
        sorry: ["Riprovi, per favore", "In questo momento non è possibile. Riprovi tra un minuto."],
        unknown: [
            "Link sconosciuto",
            "Questo link è incompleto o non è più valido. Utilizzi quello del messaggio più recente.",
        ],
        settled: ["Già saldata", "La fattura {} è saldata. Non c’è più nulla da pagare. Grazie!"],
        closed: ["Nulla da pagare", "La fattura {} è chiusa. Non c’è più nulla da pagare."],
        no_page: [
            "Nessuna pagina di pagamento",
            "Paghi la fattura {} come vi è indicato oppure risponda al nostro messaggio.",
        ],
        invoices: "Le Sue fatture",
        pay: "Paga la fattura {}",
        paid: "Fattura {}: saldata, grazie!",
        nothing: "Fattura {}: nulla da pagare",
        unsubscribe: [
            "Non ricevere più promemoria via e-mail?",
            "Non Le invieremo più promemoria via e-mail. Le Sue fatture restano come sono.",
        ],
        unsubscribe_now: "Annulla l’iscrizione",
        unsubscribed: ["Fatto", "Non riceverà più promemoria da noi via e-mail."],
    },
    Words {
        language: "nl",
        sorry: ["Probeer het nog eens", "Dit lukt nu even niet. Probeer het over een minuut nog eens."],
        unknown: [
            "Onbekende link",
            "Deze link is niet volledig of niet meer geldig. Gebruik die uit het laatste bericht.",
        ],
        settled: ["Al voldaan", "Factuur {} is voldaan. Er hoeft niets meer betaald te worden. Dank u wel!"],
        closed: ["Niets te betalen", "Factuur {} is afgesloten. Er hoeft niets meer betaald te worden."],
        no_page: ["Geen betaalpagina", "Betaal factuur {} zoals daarop staat, of antwoord op ons bericht."],
        invoices: "Uw facturen",
        pay: "Factuur {} betalen",
        paid: "Factuur {}: voldaan, dank u wel!",
        nothing: "Factuur {}: niets te betalen",
        unsubscribe: [
            "Geen herinneringen meer per e-mail?",
            "Wij herinneren u dan niet meer per e-mail. Uw facturen blijven zoals ze zijn.",
        ],
        unsubscribe_now: "Afmelden",
        unsubscribed: ["Klaar", "U krijgt van ons geen herinneringen meer per e-mail."],
    },
    Words {
        language: "pt",
        sorry: ["Tente novamente", "Neste momento não é possível. Tente novamente dentro de um minuto."],
        unknown: [
            "Link desconhecido",
            "Este link está incompleto ou já não é válido. Utilize o da mensagem mais recente.",
        ],
        settled: ["Já está paga", "A fatura {} está paga. Não há mais nada a pagar. Agradecemos!"],
        closed: ["Nada a pagar", "A fatura {} está encerrada. Não há mais nada a pagar."],
        no_page: ["Sem página de pagamento", "Pague a fatura {} como nela está indicado ou responda à nossa mensagem."],
        invoices: "As suas faturas",
        pay: "Pagar a fatura {}",
        paid: "Fatura {}: paga, agradecemos!",
        nothing: "Fatura {}: nada a pagar",
        unsubscribe: [
            "Não receber mais lembretes por e-mail?",
            "Não lhe enviaremos mais lembretes por e-mail. As suas faturas não mudam.",
        ],
        unsubscribe_now: "Cancelar a subscrição",
        unsubscribed: ["Feito", "Não receberá mais lembretes nossos por e-mail."],
    },
    Words {
        language: "pl",
        sorry: ["Proszę spróbować ponownie", "To w tej chwili nie działa. Proszę spróbować ponownie za minutę."],
        unknown: [
            "Nieznany link",
            "Ten link jest niekompletny lub stracił ważność. Proszę użyć linku z najnowszej wiadomości.",
        ],
        settled: ["Już opłacona", "Faktura {} jest opłacona. Nie pozostało nic do zapłaty. Dziękujemy!"],
        closed: ["Nic do zapłaty", "Faktura {} jest zamknięta. Nie pozostało nic do zapłaty."],
        no_page: [
            "Brak strony płatności",
            "Prosimy opłacić fakturę {} zgodnie z podanymi na niej danymi albo odpowiedzieć na naszą wiadomość.",
        ],
        invoices: "Państwa faktury",
        pay: "Opłać fakturę {}",
        paid: "Faktura {}: opłacona, dziękujemy!",
        nothing: "Faktura {}: nic do zapłaty",
        unsubscribe: [
            "Rezygnacja z przypomnień wysyłanych e-mailem?",
            "Nie będziemy więcej wysyłać Państwu przypomnień e-mailem. Faktury pozostają bez zmian.",
        ],
        unsubscribe_now: "Rezygnuję",
        unsubscribed: ["Gotowe", "Nie będą Państwo otrzymywać od nas więcej przypomnień e-mailem."],
    },
    Words {
        language: "da",
        sorry: ["Prøv igen", "Det virker ikke lige nu. Prøv igen om et minut."],
        unknown: [
            "Ukendt link",
            "Linket er ikke fuldstændigt eller gælder ikke længere. Brug linket i den seneste meddelelse.",
        ],
        settled: ["Allerede betalt", "Faktura {} er betalt. Der er ikke mere at betale. Tak!"],
        closed: ["Intet at betale", "Faktura {} er afsluttet. Der er ikke mere at betale."],
        no_page: ["Ingen betalingsside", "Betal faktura {} som angivet på fakturaen, eller svar på vores meddelelse."],
        invoices: "Deres fakturaer",
        pay: "Betal faktura {}",
        paid: "Faktura {}: betalt, tak!",
        nothing: "Faktura {}: intet at betale",
        unsubscribe: [
            "Ingen flere påmindelser på e-mail?",
            "Vi sender Dem ikke flere påmindelser på e-mail. Deres fakturaer ændrer sig ikke.",
        ],
        unsubscribe_now: "Afmeld",
        unsubscribed: ["Det er gjort", "De får ikke flere påmindelser fra os på e-mail."],
    },
    Words {
        language: "sv",
        sorry: ["Försök igen", "Det fungerar inte just nu. Försök igen om en minut."],
        unknown: [
            "Okänd länk",
            "Länken är inte fullständig eller gäller inte längre. Använd länken i det senaste meddelandet.",
        ],
        settled: ["Redan betald", "Faktura {} är betald. Det finns inget kvar att betala. Tack!"],
        closed: ["Inget att betala", "Faktura {} är avslutad. Det finns inget kvar att betala."],
        no_page: [
            "Ingen betalsida",
            "Betala faktura {} enligt uppgifterna på fakturan, eller svara på vårt meddelande.",
        ],
        invoices: "Era fakturor",
        pay: "Betala faktura {}",
        paid: "Faktura {}: betald, tack!",
        nothing: "Faktura {}: inget att betala",
        unsubscribe: [
            "Inga fler påminnelser via e-post?",
            "Vi skickar inga fler påminnelser till er via e-post. Era fakturor förblir som de är.",
        ],
        unsubscribe_now: "Avregistrera",
        unsubscribed: ["Klart", "Ni får inga fler påminnelser från oss via e-post."],
    },
];

/// The texts for a reader whose program asks for these languages (RFC 9110 section 12.5.4); else in the merchant's, or in English.
pub fn chosen(accept_language: &str, merchant: &str) -> &'static Words {
    let range = |entry: &str| -> Option<(u16, String)> {
        let (range, weight) = entry.split_once(';').unwrap_or((entry, "q=1"));
        let weight: f32 = weight.trim().strip_prefix(['q', 'Q'])?.strip_prefix('=')?.parse().ok()?;
        // In thousandths, as precise as they may be.
        let weight = (weight.clamp(0.0, 1.0) * 1_000.0) as u16;
        (weight > 0).then(|| (weight, range.trim().to_owned()))
    };
    let mut wanted: Vec<_> = accept_language.split(',').filter_map(range).collect();
    // Stable: of those that are wanted as much the first one goes first.
    wanted.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let wanted = wanted.iter().map(|(_, range)| range.as_str()).chain([merchant]);
    let [english, ..] = &ALL;
    wanted.into_iter().find_map(of_language).unwrap_or(english)
}

fn of_language(tag: &str) -> Option<&'static Words> {
    let language = tag.split(['-', '_']).next()?;
    ALL.iter().find(|words| words.language.eq_ignore_ascii_case(language))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_spoken_to_in_a_language_of_his_choice() {
        let language = |accept, merchant| chosen(accept, merchant).language;
        assert_eq!(language("de-CH, fr;q=0.9", "en"), "de");
        assert_eq!(language("en;q=0.5,PL;Q=0.8, xx", "de"), "pl", "the weights count, not the order");
        assert_eq!(language("da;q=0, ja", "sv-SE"), "sv", "what is not wanted, and what there is not");
        assert_eq!(language("", "pt_BR"), "pt");
        assert_eq!(language("*;q=0.1, \u{1f642};q=x;;,", ""), "en");
    }

    #[test]
    fn every_language_names_the_invoice_where_the_others_do() {
        for words in &ALL {
            for text in [words.settled[1], words.closed[1], words.no_page[1], words.pay, words.paid, words.nothing] {
                assert_eq!(text.matches("{}").count(), 1, "{}: {text}", words.language);
            }
            let others = [words.sorry, words.unknown, words.unsubscribe, words.unsubscribed];
            let others = others.into_iter().flatten().chain([words.invoices, words.unsubscribe_now]);
            assert!(
                others.into_iter().all(|text| !text.contains('{') && !text.trim().is_empty()),
                "{}",
                words.language
            );
        }
    }
}
